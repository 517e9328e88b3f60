"""Lock files: what a build needs, by name and digest."""
