"""What a node and a gateway look at before they start: the port, the disk, the other members."""
