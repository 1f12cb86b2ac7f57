"""What ``training.py`` measures, and how."""
