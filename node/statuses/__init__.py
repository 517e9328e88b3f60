"""A node's own commit statuses: what is to be posted, and what was."""
