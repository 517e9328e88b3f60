"""Tests of common/diagram."""
