"""The plain webhook of people and scripts."""
