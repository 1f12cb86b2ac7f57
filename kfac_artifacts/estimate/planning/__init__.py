"""Planning: what an estimation would take, before it is made."""
