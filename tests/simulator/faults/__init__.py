"""Tests of simulator/faults."""
