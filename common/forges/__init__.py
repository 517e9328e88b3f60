"""The forges: a folder for each (its webhooks, its commit statuses), and one registry."""
