"""Tests of simulator/lab."""
