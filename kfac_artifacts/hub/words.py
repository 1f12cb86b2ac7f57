"""What a server said, fit to be shown."""


def some(names: list[str]) -> str:
    """The first few of names that a server gave."""
    shown = ", ".join(plain(name) for name in names[:8]) or "nothing"
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown


def plain(text: str) -> str:
    """One line of what a server said, without control characters."""
    words = "".join(c if c.isprintable() else " " for c in text).split()
    return " ".join(words)[:300]
