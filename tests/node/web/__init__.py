"""Tests of node/web."""
