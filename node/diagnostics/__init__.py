"""What a node shows of itself: metrics, its last messages, and how fast its disk is."""
