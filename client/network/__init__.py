"""What the gateway asks the nodes, and how it checks their answers."""
