"""What an installation has beside the packages of the checkout: its commands."""
