"""Tests of node/faults."""
