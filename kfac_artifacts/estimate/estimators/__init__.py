"""The estimators: what is made of what layers see, one file each."""
