"""Tests of common/configuration."""
