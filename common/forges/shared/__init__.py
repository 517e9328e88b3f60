"""What the modules of all forges share."""
