"""Blocks of curvature, one module per kind; ``kinds.py`` is their table."""
