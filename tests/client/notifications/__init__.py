"""Tests of client/notifications."""
