"""Tests of common/web."""
