"""Tests of client/api."""
