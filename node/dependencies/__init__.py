"""What lock files name: fetched, checked, kept, and handed into builds."""
