"""Several processes: shared examples, split models, factors dealt out."""
