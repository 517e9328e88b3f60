"""Tests of common/forges/gitlab/."""
