"""Tests of common/forges/."""
