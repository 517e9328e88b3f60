"""Message diagrams as SVG and as text."""
