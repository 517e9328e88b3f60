"""The gateway at work, from an accepted webhook to an archived verdict."""
