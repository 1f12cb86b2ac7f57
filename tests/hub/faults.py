"""What goes wrong between a client and a Hub, by name; and where it can."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import gettempdir

from tests.hub.store import Fault

OUTSIDE = Path(gettempdir()) / f"kfac-out-{os.getpid()}"
"""Where answers lead who follows them: nobody else has it, and nobody writes it."""
PORTAL = b"<!DOCTYPE html><html><body>Welcome! <form>room number</form></body></html>"
HTML = {"Content-Type": "text/html; charset=utf-8"}

PUSH = {
    "info": "GET /api/models/[^/]+/[^/]+$",
    "create": "POST /api/repos/create",
    "branch": "POST .*/branch/",
    "yaml": "POST /api/validate-yaml",
    "tree": "GET .*/tree/",
    "preupload": "POST .*/preupload/",
    "batch": "POST .*/objects/batch",
    "upload": "PUT /storage",
    "verify": "POST .*git/verify",
    "commit": "POST .*/commit/",
    "refs": "GET .*/refs",
    "tag": "POST .*/tag/",
}
PULL = {
    "info": "GET /api/models/[^/]+/[^/]+(/revision/.*)?$",
    "tree": "GET .*/tree/",
    "head": "HEAD .*/resolve/",
    "manifest": "GET .*/resolve/.*json",
    "card": "GET .*/resolve/.*md",
    "storage": "GET /storage",
}


def instead(body: bytes = b"", status: int = 200, **headers: str) -> dict[str, object]:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return {"kind": "instead", "body": body, "status": status, "headers": headers}


def answer(body: bytes | Callable[[bytes], bytes], **headers: str) -> dict[str, object]:
    return {**instead(**headers), "kind": "answer", "body": body}


def values_to(other: object) -> Callable[[bytes], bytes]:
    """Change every value in JSON to another one, and keep its keys."""

    def change(value: object) -> object:
        if isinstance(value, dict):
            return {key: change(item) for key, item in value.items()}
        return [change(item) for item in value] if isinstance(value, list) else other

    return lambda content: json.dumps(change(_read(content))).encode()


def without_keys(content: bytes) -> bytes:
    value = _read(content)
    if isinstance(value, list):
        return json.dumps([{} for _ in value]).encode()
    return b"{}"


def _read(content: bytes) -> object:
    try:
        return json.loads(content)
    except ValueError:
        return {}


ELSEWHERE = "http://nowhere.invalid/login"
FAULTS: dict[str, dict[str, object]] = {
    "a portal": instead(PORTAL, **HTML),
    "a portal after it was done": answer(PORTAL, **HTML),
    "nothing": instead(),
    "nothing after it was done": answer(b""),
    "half of it": answer(lambda content: content[: len(content) // 2]),
    "null": answer(b"null"),
    "a list": answer(b"[]"),
    "a list of lists": answer(b"[[1], null]"),
    "a number": answer(b"7"),
    "text": answer(b'"no"'),
    "an object": answer(b"{}"),
    "no keys": answer(without_keys),
    "only nulls": answer(values_to(None)),
    "only numbers": answer(values_to(-1)),
    "only text": answer(values_to("\x1b[31m../../x")),
    "only lists": answer(values_to([])),
    "no text": answer(b"\xff\xfe\x00{"),
    "depth": answer(b"[" * 100_000),
    "no gzip": answer(b"\x1f\x8b\x00", Content_Encoding="gzip"),
    "half a chunk": answer(b"ff\r\n{", Transfer_Encoding="chunked"),
    "headers that lead out": answer(
        lambda content: content,
        ETag=f'"../../../../../../../../../..{OUTSIDE}"',
        X_Linked_Etag=f'"{OUTSIDE}"',
        X_Repo_Commit="../../../out",
        Content_Type="image/png",
    ),
    "headers of nothing": answer(
        lambda content: content, ETag="", X_Repo_Commit="", X_Linked_Size="-3"
    ),
    "a redirect to nowhere": instead(b"", 302, Location=ELSEWHERE),
    "a redirect to no place": instead(b"", 302, Location="http://[::1"),
    "a redirect without a place": instead(b"", 302),
    "a redirect to itself": instead(b"", 307, Location="?again"),
    "503": {"kind": "status"},
    "429": {"kind": "status", "status": 429, "headers": {"Retry-After": "\u00b2"}},
    "an error page": instead(PORTAL, 502, **HTML),
    "drop": {"kind": "drop"},
    "lose": {"kind": "lose"},
    "truncate": {"kind": "truncate"},
    "short": {"kind": "short"},
    "flip": {"kind": "flip"},
}


def fault(pattern: str, name: str, times: int = 10**9) -> Fault:
    return Fault(pattern, times=times, **FAULTS[name])
