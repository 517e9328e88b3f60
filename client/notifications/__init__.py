"""Who is told that a branch turned red, or green again: rules, queue, messages, sending."""
