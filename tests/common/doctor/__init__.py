"""Tests of common/doctor."""
