"""Tests of node/dependencies."""
