"""The systemd units, the compose files and the container image."""
