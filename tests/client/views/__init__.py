"""Tests of client/views."""
