"""Tests of common/forges/gitea/."""
