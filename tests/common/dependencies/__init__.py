"""Tests of common/dependencies."""
