"""A server on this machine that speaks as much of the hub's API as reading a data set asks for, and counts it."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubStub:
    """Serves data sets: {name: {path: content}}; a name may stand for the error it answers with, as (status, code).

    Attributes:
        asked: method and path of each request.
        address: what HF_ENDPOINT is set to.
    """

    def __init__(self, data_sets: dict[str, dict[str, bytes] | tuple[int, str]]):
        self.data_sets, self.asked = data_sets, []
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                stub.handle(self)

            do_HEAD = do_POST = do_GET

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(request.path).path)
        self.asked.append(f"{request.command} {path}")
        parts = path.removeprefix("/api").removeprefix("/datasets/").split("/")
        files = self.data_sets.get("/".join(parts[:2]), (404, "RepoNotFound"))
        if isinstance(files, tuple):
            return self._refuse(request, *files)
        what, revision, rest = (*parts[2:4], *["", ""][len(parts[2:4]) :], "/".join(parts[4:]))
        if revision not in ("", "main", COMMIT):
            return self._refuse(request, 404, "RevisionNotFound")
        if what == "resolve":
            return self._file(request, files, rest)
        if what == "paths-info":
            paths = json.loads(body)["paths"]
            return self._json(request, [_entry(path, files) for path in paths if _is_there(path, files)])
        if what == "tree":
            if rest and not _is_there(rest, files):
                return self._refuse(request, 404, "EntryNotFound")
            return self._json(request, [_entry(path, files) for path in _children(rest, files)])
        siblings = [{"rfilename": name} for name in files]
        about = {"_id": "1", "id": "/".join(parts[:2]), "sha": COMMIT, "siblings": siblings, "private": False}
        return self._json(request, about | {"tags": [], "gated": False, "downloads": 0, "likes": 0})

    def _file(self, request: BaseHTTPRequestHandler, files: dict[str, bytes], name: str) -> None:
        if name not in files:
            return self._refuse(request, 404, "EntryNotFound")
        content, status, extra = files[name], 200, {}
        if told := request.headers.get("Range"):
            first, last = told.removeprefix("bytes=").split("-")
            stop = min(int(last or len(content)), len(content) - 1) + 1
            extra["Content-Range"] = f"bytes {first}-{stop - 1}/{len(content)}"
            content, status = content[int(first) : stop], 206
        digest = hashlib.sha256(files[name]).hexdigest()
        extra |= {"ETag": f'"{digest}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        return self._answer(request, status, content, extra)

    def _json(self, request: BaseHTTPRequestHandler, value: Any) -> None:
        self._answer(request, 200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, request: BaseHTTPRequestHandler, status: int, code: str) -> None:
        self._answer(request, status, b"", {"X-Error-Code": code})

    def _answer(
        self, request: BaseHTTPRequestHandler, status: int, content: bytes, headers: dict[str, str]
    ) -> None:
        request.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            request.send_header(name, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(content)


def _is_there(path: str, files: dict[str, bytes]) -> bool:
    return path in files or any(name.startswith(f"{path}/") for name in files)


def _children(folder: str, files: dict[str, bytes]) -> list[str]:
    start = f"{folder}/" if folder else ""
    inside = (name.removeprefix(start).split("/")[0] for name in files if name.startswith(start))
    return [start + name for name in dict.fromkeys(inside)]


def _entry(path: str, files: dict[str, bytes]) -> dict[str, Any]:
    digest = hashlib.sha1(files.get(path, b""), usedforsecurity=False).hexdigest()
    if path not in files:
        return {"type": "directory", "path": path, "size": 0, "oid": digest}
    return {"type": "file", "path": path, "size": len(files[path]), "oid": digest}
