"""A test per rule of the paper (Castro and Liskov, OSDI 1999), section by section, and per trap."""
