"""What the layers of a network see of examples: proved, then listened to."""
