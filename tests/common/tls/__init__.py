"""Tests of common/tls."""
