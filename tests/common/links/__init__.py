"""Tests of common/links."""
