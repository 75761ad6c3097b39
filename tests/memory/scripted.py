"""An endpoint that speaks OpenAI's ``/chat/completions``, and answers as a script says."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

Script = Callable[[dict[str, Any]], tuple[int, Any]]
"""A request's body, to the status and the body of the reply."""


def saying(content: Any) -> tuple[int, Any]:
    """A reply with this content."""
    return 200, {"choices": [{"message": {"role": "assistant", "content": content}}]}


@dataclass
class Scripted:
    """An endpoint that is being served: what it was asked, and how it replies."""

    url: str
    script: Script
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)


@contextmanager
def serving(script: Script) -> Iterator[Scripted]:
    """Serve an endpoint that replies by ``script``."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            endpoint.requests.append(body)
            endpoint.keys.append(self.headers.get("Authorization"))
            status, reply = endpoint.script(body) if self.path == "/v1/chat/completions" else (404, {})
            payload = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
            try:
                self.send_response(status)
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)
            except OSError:  # the client did not wait
                pass

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    endpoint = Scripted(f"http://127.0.0.1:{server.server_port}/v1", script)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
