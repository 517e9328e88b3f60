"""Tests of client/dashboard/."""
