"""Tests of common/membership."""
