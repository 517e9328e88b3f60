"""Gitea and Forgejo: their webhooks, their commit statuses."""
