"""Tests of simulator/campaigns."""
