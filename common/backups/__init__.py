"""What a backup holds, how one is written and checked, and how one is restored."""
