"""What ``compression.py`` measures: arms, what they lose, and what they cost."""
