"""Tests of node/work."""
