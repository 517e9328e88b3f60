"""Tests of common/junit."""
