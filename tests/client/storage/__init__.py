"""Tests of client/storage."""
