"""A Hub of one's own on 127.0.0.1, speaking what the real client asks for."""

import base64
import contextlib
import json
import re
from collections.abc import Iterator
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.hub.store import Blob, HubError, Store
from tests.hub.wire import Handler, Server, route

PAGE = 3  # entries per page of a tree, so that every listing has several
PART = 5_000_000  # bytes per part of a multipart upload
LARGE = 10_000_000


@route("GET", "/api/whoami-v2")
def whoami(http: Handler) -> None:
    user = http.user()
    if user is None:
        raise HubError(401, message="Invalid username or password.")
    http.send_json({"name": user, "type": "user", "orgs": [], "auth": {}})


@route("POST", "/api/repos/create")
def create(http: Handler) -> None:
    body = http.json_body()
    name = f"{body['organization']}/{body['name']}"
    http.may_write(name)
    url = f"{http.base}/{name}"
    if name in http.store.repos:
        message = "You already created this model repo"
        http.send_json({"error": message, "url": url}, 409)
    else:
        http.store.create(name, private=body.get("visibility") == "private")
        http.send_json({"url": url})


@route("POST", "/api/validate-yaml")
def validate_yaml(http: Handler) -> None:
    content = http.json_body()["content"]
    match = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
    data = yaml.safe_load(match[1]) if match else None
    errors = [] if isinstance(data, dict) else [{"message": "no metadata"}]
    if isinstance(data, dict) and data.get("license") == "no-such-license":
        errors = [{"message": '"license" must be one of [apache-2.0, mit, ...]'}]
    http.send_json({"errors": errors, "warnings": []}, 400 if errors else 200)


@route("GET", "/api/models")
def list_models(http: Handler) -> None:
    asked = parse_qs(urlsplit(http.path).query).get("filter", [])
    wanted = {tag for each in asked for tag in each.split(",")}
    found = []
    for name, repo in http.store.repos.items():
        tags = tags_of(repo.head)
        if not repo.private and wanted <= tags:
            sha = repo.branches["main"]
            about = {"id": name, "sha": sha, "tags": sorted(tags)}
            found.append({**about, "lastModified": "2026-11-25T10:00:00.000Z"})
    http.send_json(found)


def tags_of(files: dict[str, Blob]) -> set[str]:
    """What the Hub makes of the metadata of a card."""
    card = files["README.md"].content.decode() if "README.md" in files else ""
    match = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    data = yaml.safe_load(match[1]) if match else {}
    bases = data.get("base_model") or []
    bases = [bases] if isinstance(bases, str) else bases
    found = {*data.get("tags", []), *(f"base_model:{base}" for base in bases)}
    return found | ({f"license:{data['license']}"} if "license" in data else set())


@route("GET", "/api/models/{repo}(/revision/(?P<revision>.+))?")
def model_info(http: Handler, repo: str, revision: str) -> None:
    found = http.read(repo, content=False)
    sha = found.resolve(revision or "main")
    files = [{"rfilename": path} for path in sorted(found.commits[sha])]
    info = {"id": repo, "sha": sha, "private": found.private, "siblings": files}
    http.send_json({**info, "gated": "manual" if found.gated else False})


@route("GET", "/api/models/{repo}/tree/(?P<revision>[^/]+)(/(?P<path>.+))?")
def tree(http: Handler, repo: str, revision: str, path: str) -> None:
    found = http.read(repo)
    files = found.commits[found.resolve(revision)]
    prefix = f"{path}/" if path else ""
    inside = [p for p in sorted(files) if p.startswith(prefix)]
    if not inside:
        raise HubError(404, "EntryNotFound", f"{path} does not exist on {revision}")
    recursive = http.query.get("recursive", "false").lower() == "true"
    folders = {
        p.removeprefix(prefix).split("/")[0]
        for p in inside
        if "/" in p.removeprefix(prefix)
    }
    entries = [
        {"type": "directory", "path": prefix + f, "oid": "0" * 40, "size": 0}
        for f in sorted(folders)
    ]
    shown = [p for p in inside if recursive or "/" not in p.removeprefix(prefix)]
    entries += [entry(p, files[p]) for p in shown]
    start = int(http.query.get("cursor", 0))
    headers = {}
    if start + PAGE < len(entries):
        here = f"{http.base}{urlsplit(http.path).path}?recursive={recursive}"
        headers["Link"] = f'<{here}&cursor={start + PAGE}>; rel="next"'
    http.send_json(entries[start : start + PAGE], headers=headers)


def entry(path: str, blob: Blob) -> dict[str, Any]:
    size = len(blob.content)
    found = {"type": "file", "path": path, "size": size, "oid": blob.git}
    if blob.lfs:
        pointer = len(blob.pointer)
        found["lfs"] = {"oid": blob.sha256, "size": size, "pointerSize": pointer}
    return found


@route("POST", "/api/models/{repo}/paths-info/(?P<revision>[^/]+)")
def paths_info(http: Handler, repo: str, revision: str) -> None:
    found = http.read(repo)
    files = found.commits[found.resolve(revision)]
    paths = parse_qs(http.body.decode()).get("paths", [])
    http.send_json([entry(p, files[p]) for p in paths if p in files])


@route("GET", "/api/models/{repo}/refs")
def refs(http: Handler, repo: str) -> None:
    found = http.read(repo)

    def listed(kind: str, names: dict[str, str]) -> list[dict[str, str]]:
        return [
            {"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": s}
            for n, s in names.items()
        ]

    branches, tags = listed("heads", found.branches), listed("tags", found.tags)
    http.send_json({"branches": branches, "converts": [], "tags": tags})


@route("POST", "/api/models/{repo}/tag/(?P<revision>[^/]+)")
def create_tag(http: Handler, repo: str, revision: str) -> None:
    found, tag = http.write(repo), http.json_body()["tag"]
    if tag in found.tags:
        raise HubError(409, message=f"Tag {tag} already exists")
    found.tags[tag] = found.resolve(revision)
    http.send_json({})


@route("DELETE", "/api/models/{repo}/tag/(?P<tag>[^/]+)")
def delete_tag(http: Handler, repo: str, tag: str) -> None:
    if http.write(repo).tags.pop(tag, None) is None:
        raise HubError(404, "RevisionNotFound", f"no tag {tag}")
    http.send_json({})


@route("POST", "/api/models/{repo}/branch/(?P<branch>[^/]+)")
def create_branch(http: Handler, repo: str, branch: str) -> None:
    found = http.write(repo)
    if branch in found.branches:
        raise HubError(409, message=f"Branch {branch} already exists")
    found.branches[branch] = found.branches["main"]
    http.send_json({})


@route("POST", "/api/models/{repo}/preupload/(?P<revision>[^/]+)")
def preupload(http: Handler, repo: str, revision: str) -> None:
    found = http.write(repo)
    files = found.commits[found.resolve(revision)]
    answers = []
    for file in http.json_body()["files"]:
        path = file["path"]
        large = path.endswith(".safetensors") or file["size"] > LARGE
        mode = "lfs" if large else "regular"
        answer = {"path": path, "uploadMode": mode, "shouldIgnore": False}
        if path in files:
            answer["oid"] = files[path].oid
        answers.append(answer)
    http.send_json({"files": answers})


@route("POST", "/api/models/{repo}/commit/(?P<revision>[^/]+)")
def commit(http: Handler, repo: str, revision: str) -> None:
    found = http.write(repo)
    if revision not in found.branches:
        raise HubError(404, "RevisionNotFound", f"no branch {revision}")
    files = dict(found.commits[found.branches[revision]])
    for line in http.body.splitlines():
        item = json.loads(line)
        apply(http.store, files, item["key"], item["value"])
        parent = item["value"].get("parentCommit")
        if not http.store.checks_parent:
            continue
        if parent is not None and parent != found.branches[revision]:
            raise HubError(412, message="A commit has happened since. Please refresh.")
    sha = found.commit(files, revision)
    url = f"{http.base}/{repo}/commit/{sha}"
    http.send_json({"commitOid": sha, "commitUrl": url, "success": True})


def apply(
    store: Store, files: dict[str, Blob], key: str, value: dict[str, Any]
) -> None:
    if key == "file":
        files[value["path"]] = Blob(base64.b64decode(value["content"]), lfs=False)
    elif key == "lfsFile":
        if value["oid"] not in store.large:
            raise HubError(400, message="LFS pointer to a file that was not uploaded")
        files[value["path"]] = Blob(store.large[value["oid"]], lfs=True)
    elif key == "deletedFile" and files.pop(value["path"], None) is None:
        message = "A file with this name doesn't exist"
        raise HubError(404, "EntryNotFound", message)


@route("POST", r"/{repo}\.git/info/lfs/objects/batch")
def lfs_batch(http: Handler, repo: str) -> None:
    http.write(repo)
    objects = []
    for item in http.json_body()["objects"]:
        oid, size = item["oid"], item["size"]
        answer = {"oid": oid, "size": size}
        if oid not in http.store.large:
            href = f"{http.base}/storage/{oid}"
            upload: dict[str, Any] = {"href": href}
            if size > LARGE:
                parts = range(1, -(-size // PART) + 1)
                upload["header"] = {"chunk_size": str(PART)}
                upload["header"] |= {f"{n:05}": f"{href}/{n}" for n in parts}
            answer["actions"] = {"upload": upload}
            if http.store.verifies:
                verify = {"href": f"{http.base}/{repo}.git/verify"}
                answer["actions"]["verify"] = verify
        objects.append(answer)
    http.send_json({"transfer": "basic", "objects": objects})


@route("PUT", "/storage/(?P<oid>[0-9a-f]{64})(/(?P<number>[0-9]+))?")
def upload(http: Handler, oid: str, number: str) -> None:
    if number:
        http.store.parts.setdefault(oid, {})[int(number)] = http.body
    else:
        http.store.large[oid] = http.body
    http.send(b"", headers={"ETag": f'"part-{number}"'})


@route("POST", "/storage/(?P<oid>[0-9a-f]{64})")
def complete(http: Handler, oid: str) -> None:
    numbers = [part["partNumber"] for part in http.json_body()["parts"]]
    parts = http.store.parts.pop(oid)
    http.store.large[oid] = b"".join(parts[number] for number in numbers)
    http.send_json({})


@route("POST", r"/{repo}\.git/verify")
def verify(http: Handler, repo: str) -> None:
    http.write(repo)
    body = http.json_body()
    blob = Blob(http.store.large.get(body["oid"], b""), lfs=True)
    if blob.sha256 != body["oid"] or len(blob.content) != body["size"]:
        http.store.large.pop(body["oid"], None)
        raise HubError(422, message="the upload is not what was announced")
    http.send_json({})


@route("HEAD|GET", "/{repo}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
def resolve(http: Handler, repo: str, revision: str, path: str) -> None:
    found = http.read(repo)
    sha = found.resolve(revision)
    if path not in found.commits[sha]:
        raise HubError(404, "EntryNotFound", "Entry not found")
    blob = found.commits[sha][path]
    headers = {"X-Repo-Commit": sha, "ETag": f'"{blob.oid}"'}
    if not blob.lfs:
        http.send(blob.content, headers=headers)
        return
    http.store.large[blob.sha256] = blob.content
    headers["X-Linked-Etag"] = f'"{blob.sha256}"'
    headers["X-Linked-Size"] = str(len(blob.content))
    headers["Location"] = f"{http.server.storage_url}/storage/{blob.sha256}"
    if http.store.claims_xet:
        headers["X-Xet-Hash"] = blob.sha256
        route = f"{http.base}/api/models/{repo}/xet-read-token/{sha}"
        headers["X-Xet-Refresh-Route"] = route
    http.send(b"Found", 302, headers)


@route("GET", "/storage/(?P<oid>[0-9a-f]{64})")
def download(http: Handler, oid: str) -> None:
    if "Authorization" in http.headers:
        http.store.leaks.append(http.path)
    content = http.store.large[oid]
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", http.headers.get("Range") or "")
    if asked is None:
        http.send(content, headers={"Accept-Ranges": "bytes"})
        return
    start = int(asked[1])
    stop = int(asked[2] or len(content) - 1) + 1
    span = f"bytes {start}-{stop - 1}/{len(content)}"
    http.send(content[start:stop], 206, {"Content-Range": span})


@contextlib.contextmanager
def running() -> Iterator[Server]:
    """Serve until the block is left."""
    with Server() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
