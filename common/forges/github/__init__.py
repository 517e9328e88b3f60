"""GitHub: its webhooks, its commit statuses."""
