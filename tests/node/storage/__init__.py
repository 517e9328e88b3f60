"""Tests of node/storage."""
