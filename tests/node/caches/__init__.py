"""Tests of node/caches."""
