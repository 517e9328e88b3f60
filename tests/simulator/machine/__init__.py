"""Tests of simulator/machine."""
