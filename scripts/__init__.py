"""What people run: setting up, the example, the demo; each module is `python -m scripts.NAME`."""
