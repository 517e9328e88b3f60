"""Bitbucket Cloud: its webhooks, its commit statuses."""
