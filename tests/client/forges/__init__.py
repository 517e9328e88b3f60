"""Tests of client/forges/."""
