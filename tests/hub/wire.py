"""HTTP of a small Hub: requests, answers, permissions, and faults put into them."""

import json
import re
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import SHUT_RDWR
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub.store import TOKENS, Fault, HubError, Repo, Store, flipped

Route = tuple[str, re.Pattern[str], Callable[..., None]]
ROUTES: list[Route] = []


def owner(name: str) -> str:
    return name.partition("/")[0]


def route(
    method: str, pattern: str
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    pattern = pattern.replace("{repo}", r"(?P<repo>[^/]+/[^/]+?)")

    def add(function: Callable[..., None]) -> Callable[..., None]:
        for verb in method.split("|"):
            ROUTES.append((verb, re.compile(pattern), function))
        return function

    return add


class AnsweredError(Exception):
    """Somebody else has answered already."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: no delayed acknowledgement
    disable_nagle_algorithm = True
    server: "Server"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def answer(self) -> None:
        self.store = self.server.store
        parts = urlsplit(self.path)
        self.query = {k: v[0] for k, v in parse_qs(parts.query).items()}
        request = f"{self.command} {unquote(parts.path)}"
        self.store.requests.append(request)
        self.body = self.read_body()
        self.broken = self.store.fault(request)
        try:
            self.refuse(self.broken)
            with self.store.lock:  # a commit looks and writes at once
                self.find(parts.path)
        except HubError as error:
            self.send_error_answer(error)
        except AnsweredError:
            pass
        except BrokenPipeError:
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer  # noqa: N815

    def refuse(self, fault: Fault | None) -> None:
        if fault and fault.kind == "status":
            raise HubError(fault.status, message=fault.message)
        if fault and fault.kind == "drop":
            self.hang_up()
        if fault and fault.kind == "meanwhile":
            fault.action()
            self.broken = None
        if fault and fault.kind == "instead":
            self.send(b"", fault.status)
            raise AnsweredError
        if fault and fault.kind == "flip" and self.command == "PUT":
            self.body = flipped(self.body)
            self.broken = None

    def hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(SHUT_RDWR)
        raise BrokenPipeError

    def find(self, path: str) -> None:
        for old, new in self.store.renamed.items():
            if f"/{old}" in path:
                where = self.path.replace(f"/{old}", f"/{new}")
                return self.send(b"", 307, {"Location": f"{self.base}{where}"})
        for method, pattern, function in ROUTES:
            match = pattern.fullmatch(path)
            if method == self.command and match:
                groups = {k: unquote(v or "") for k, v in match.groupdict().items()}
                return function(self, **groups)
        raise HubError(404, message=f"no route {self.command} {path}")

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            if len(body) < length:  # whoever sent it is gone
                raise ConnectionAbortedError
            return body
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def json_body(self) -> Any:
        return json.loads(self.body)

    def send(
        self, content: bytes, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        headers = dict(headers or {})
        kind = self.broken.kind if self.broken else ""
        if self.broken and kind in ("answer", "instead"):
            status = self.broken.status
            headers |= self.broken.headers
        if self.broken and kind == "after":
            self.broken.action()
        if kind in {"lose", "after"}:
            self.hang_up()
        content = self.broken.changed(content) if self.broken else content
        self.send_response(status)
        if "Transfer-Encoding" in headers:
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Request-Id", f"request-{next(self.store.numbers)}")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            if kind == "truncate":
                content = content[: len(content) // 2]
                self.close_connection = True
            self.wfile.write(content)

    def send_json(
        self, value: object, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        kind = {"Content-Type": "application/json"}
        self.send(json.dumps(value).encode(), status, {**kind, **(headers or {})})

    def send_error_answer(self, error: HubError) -> None:
        headers = {"X-Error-Code": error.code, "X-Error-Message": error.message}
        if self.broken:
            headers |= self.broken.headers
            self.broken = None
        kept = {k: v for k, v in headers.items() if v and v.isprintable()}
        self.send_json({"error": error.message}, error.status, kept)

    def user(self) -> str | None:
        header = self.headers.get("Authorization")
        if header is None:
            return None
        token = header.removeprefix("Bearer ")
        if token not in TOKENS:
            message = "Invalid credentials in Authorization header"
            raise HubError(401, message=message)
        return TOKENS[token][0]

    def read(self, name: str, *, content: bool = True) -> Repo:
        user, repo = self.user(), self.store.repos.get(name)
        if repo is None or (repo.private and user != owner(name)):
            raise HubError(404 if user else 401, "RepoNotFound", "Repository not found")
        if content and repo.gated and user != owner(name):
            raise HubError(
                403 if user else 401, "GatedRepo", f"Access to {name} is restricted"
            )
        return repo

    def write(self, name: str) -> Repo:
        repo = self.read(name)
        self.may_write(name)
        return repo

    def may_write(self, name: str) -> None:
        if self.user() is None:
            raise HubError(401, message="Invalid username or password.")
        _, role = TOKENS[self.headers["Authorization"].removeprefix("Bearer ")]
        if role != "write" or self.user() != owner(name):
            message = "You don't have the rights to write to this namespace"
            raise HubError(403, message=message)

    @property
    def base(self) -> str:
        return self.server.url


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.store = Store()
        port = self.server_address[1]
        self.url = f"http://127.0.0.1:{port}"
        # Large files lie at another origin, where a token must not follow.
        self.storage_url = f"http://localhost:{port}"

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # connections are dropped on purpose
