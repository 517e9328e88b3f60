"""GitLab: its webhooks, its commit statuses."""
