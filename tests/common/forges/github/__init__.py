"""Tests of common/forges/github/."""
