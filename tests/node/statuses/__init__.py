"""Tests of node/statuses."""
