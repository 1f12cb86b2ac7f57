"""What ``compression.py`` measures: conditions, what they lose, and what they cost."""
