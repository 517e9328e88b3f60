"""What builds leave on disk: logs, artifacts, and the folders that keep them for a while."""
