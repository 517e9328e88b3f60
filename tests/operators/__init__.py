"""Four operators on four machines of their own: network, users, disks, clocks and engines."""
