"""The simulated machines: virtual time, network, disks, processes, clients and builds."""
