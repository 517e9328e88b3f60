"""Tests, file for file like the packages they test."""
