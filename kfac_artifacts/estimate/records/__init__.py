"""Records: what each block saw of every example, kept in place of its gradients."""
