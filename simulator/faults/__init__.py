"""What goes wrong: crashes, cuts and slow disks, and the members that lie."""
