"""Pages of one file that need nothing else: no network, no style or script of others.

Whatever somebody chose has to be escaped before it comes here; should that ever be
forgotten, the page's policy runs no script but the given one, and loads nothing.
"""

from base64 import b64encode
from collections.abc import Iterable
from hashlib import sha256
from html import escape

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem;
       padding: 0 1rem; color: #1a1a1a; background: #fff; }
table { border-collapse: collapse; margin: 1rem 0 2rem; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
td.bar { width: 16rem; text-align: left; }
td.bar div { background: #0072B2; height: .8rem; position: relative; }
td.bar div.from { background: #999; height: .15rem; }
tr.best td { font-weight: 600; }
.note { color: #666; }
@media (prefers-color-scheme: dark) {
  body { background: #181818; color: #e8e8e8; }
  th, td { border-color: #444; } .note { color: #aaa; }
}
"""


def page(title: str, body: Iterable[str], *, style: str = "", script: str = "") -> str:
    """Make a page.

    Args:
        title: Its title, as text.
        body: HTML.
        style: CSS beside ``STYLE``.
        script: JavaScript that runs once the page is there.

    Returns:
        The page.
    """
    digest = b64encode(sha256(script.encode()).digest()).decode()
    allowed = f"'sha256-{digest}'" if script else "'none'"
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
        f"script-src {allowed}; base-uri 'none'; form-action 'none'"
    )
    lines = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}{style}</style></head><body>",
        *body,
        *([f"<script>{script}</script>"] if script else []),
        "</body></html>\n",
    ]
    return "\n".join(lines)


def table(header: Iterable[str], rows: Iterable[str]) -> str:
    """Make a table.

    Args:
        header: Titles of the columns, as text.
        rows: What ``table_row`` gives.

    Returns:
        HTML.
    """
    titles = "".join(f'<th scope="col">{escape(title)}</th>' for title in header)
    body = "\n".join(rows)
    return f"<table><thead><tr>{titles}</tr></thead><tbody>\n{body}</tbody></table>"


def table_row(cells: Iterable[str | tuple[int, str]], *, kind: str = "") -> str:
    """Make a row of a table.

    Args:
        cells: HTML; or a whole number to sort by, and HTML.
        kind: A class of the row.

    Returns:
        HTML.
    """
    shown = "".join(map(_cell, cells))
    return f"<tr{f' class={kind}' if kind else ''}>{shown}</tr>"


def _cell(cell: str | tuple[int, str]) -> str:
    if isinstance(cell, tuple):
        return f'<td data-sort="{cell[0]}">{cell[1]}</td>'
    return f"<td{' class=bar' if cell.startswith('<div') else ''}>{cell}</td>"
