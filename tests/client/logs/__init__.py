"""Tests of client/logs."""
