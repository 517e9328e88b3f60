"""Tests of common/backups."""
