"""The estimator ``nearest``: the Kronecker products nearest to a block."""
