"""Coverage: proof that what the sites see is the whole gradient."""
