"""Tests of node/outputs."""
