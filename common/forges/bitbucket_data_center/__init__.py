"""Bitbucket Data Center: its webhooks, its commit statuses."""
