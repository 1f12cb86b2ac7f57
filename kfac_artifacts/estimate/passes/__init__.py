"""Passes: once forward and any number of times back, with every site listened to."""
