"""A server on this machine that speaks OpenAI's chat completions, well or badly, and counts what it is asked."""

import base64
import hashlib
import io
import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

Reply = dict[str, Any]
"""`status`, `headers`, `body` (bytes, or JSON), `sleep`, `drip` (seconds between bytes), `reset`."""


def completion(text: Any, finish: str | None = "stop", **more: Any) -> Reply:
    """A whole answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish} | more
    return {
        "body": {
            "id": "1",
            "object": "chat.completion",
            "choices": [choice],
            "usage": {"completion_tokens": 7},
        }
    }


def brightness(image: np.ndarray) -> str:
    """What the well-behaved stub says of an image: true of its pixels, so a mixed-up answer is seen."""
    return f"an image of brightness {image.mean():.3f}."


class ChatStub:
    """The server. `behave(image, nth)` says how it answers the nth question about an image (from 1)."""

    def __init__(self, behave: Callable[[np.ndarray, int], Reply] | None = None, models: Any = ("tiny",)):
        self.behave = behave or (lambda image, nth: completion(brightness(image)))
        self.models, self.asked, self.headers = models, Counter[str](), []
        self.bodies: list[dict] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                stub.headers.append(dict(self.headers))
                if stub.models is None or isinstance(stub.models, int):
                    stub.answer(self, {"status": stub.models or 404, "body": b"nothing here"})
                else:
                    listed = [{"id": name, "object": "model", "created": time.time()} for name in stub.models]
                    stub.answer(self, {"body": {"object": "list", "data": listed}})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with stub.lock:
                    stub.headers.append(dict(self.headers))
                    stub.bodies.append(body)
                    stub.at_once += 1
                    stub.most_at_once = max(stub.most_at_once, stub.at_once)
                try:
                    stub.answer(self, stub.reply(body))
                finally:
                    with stub.lock:
                        stub.at_once -= 1

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.block_on_close = False
        self.server.handle_error = lambda request, client_address: None  # a client that hung up
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> "ChatStub":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/v1?model=tiny"

    def reply(self, body: dict) -> Reply:
        url = next(each for each in body["messages"][0]["content"] if each["type"] == "image_url")
        data = base64.b64decode(url["image_url"]["url"].removeprefix("data:image/png;base64,"))
        image = np.asarray(Image.open(io.BytesIO(data)))
        key = hashlib.sha256(image.tobytes()).hexdigest()
        with self.lock:
            self.asked[key] += 1
            nth = self.asked[key]
        return self.behave(image, nth)

    @staticmethod
    def answer(handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        time.sleep(reply.get("sleep", 0))
        if reply.get("reset"):
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.close_connection = True
            handler.connection.close()
            return
        body = reply.get("body", b"")
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        handler.send_response(reply.get("status", 200))
        handler.send_header("Content-Length", str(reply.get("length", len(data))))
        for name, value in reply.get("headers", {}).items():
            handler.send_header(name, value)
        handler.end_headers()
        if not reply.get("drip"):
            handler.wfile.write(data)
            handler.close_connection = "length" in reply
            return
        for byte in data:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            time.sleep(reply["drip"])
