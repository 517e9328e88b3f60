"""What all machines of a run share: virtual time, network, signatures, clients, what is true."""
