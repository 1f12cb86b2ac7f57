"""Several processes: sharded networks, and factors that one process each owns."""
