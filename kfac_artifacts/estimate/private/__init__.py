"""Factors with noise: what one example can change in an artifact is drowned in it."""
