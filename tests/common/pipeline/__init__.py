"""Tests of common/pipeline."""
