"""Tests of simulator/world."""
