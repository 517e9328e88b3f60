"""What all blocking work of a node shares: threads that stop, and the error for local faults."""
