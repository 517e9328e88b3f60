"""Tests of common/checks."""
