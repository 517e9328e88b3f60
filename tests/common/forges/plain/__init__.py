"""Tests of common/forges/plain/."""
