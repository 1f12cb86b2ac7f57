"""Formats that are written, one module each; ``choices.EXPORTS`` is their table."""
