"""Streaming: the curvature of a network of which one block is in memory at a time."""
