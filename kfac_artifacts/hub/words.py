"""What a server said, fit to be shown."""


def plain(text: str) -> str:
    """One line of what a server said, without control characters."""
    words = "".join(c if c.isprintable() else " " for c in text).split()
    return " ".join(words)[:300]
