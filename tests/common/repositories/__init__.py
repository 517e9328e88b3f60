"""Tests of common/repositories."""
