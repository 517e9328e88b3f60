"""Tests of common/forges/shared/."""
