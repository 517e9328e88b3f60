"""Tests of node/sources."""
