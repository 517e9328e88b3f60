"""Tests of common/statuses/."""
