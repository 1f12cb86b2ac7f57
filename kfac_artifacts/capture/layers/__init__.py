"""The layers of a network: the places where parameters enter it."""
