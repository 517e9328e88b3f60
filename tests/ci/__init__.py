"""Tests of ci/."""
