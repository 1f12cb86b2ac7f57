"""Formats that are read, one module each; ``choices.IMPORTS`` is their table."""
