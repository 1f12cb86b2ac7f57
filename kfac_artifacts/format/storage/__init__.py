"""How the numbers of factors are written, a file per storage (``spec/storage/``)."""
