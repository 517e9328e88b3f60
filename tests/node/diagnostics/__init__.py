"""Tests of node/diagnostics."""
