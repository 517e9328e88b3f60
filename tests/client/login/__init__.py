"""Tests of client.login."""
