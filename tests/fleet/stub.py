# SPDX-License-Identifier: GPL-2.0-or-later
"""A server that answers as it is told: well, badly, slowly, or in another language."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from dynstack_probe import cli


class Request:
    """What the stub was asked."""

    def __init__(self, handler: BaseHTTPRequestHandler) -> None:
        self.path = handler.path
        self.headers = handler.headers
        body = handler.rfile.read(int(handler.headers.get("Content-Length", "0")))
        self.form = parse_qs(body.decode())

    @property
    def query(self) -> str:
        return self.form["query"][0]


Reply = tuple[int, dict[str, str], bytes]
JSON = {"Content-Type": "application/json"}


def vector(*series: tuple[dict[str, str], str], warnings: Sequence[str] = ()) -> Reply:
    """A good answer with these series."""
    result = [{"metric": labels, "value": [1000.0, value]} for labels, value in series]
    document: dict[str, Any] = {
        "status": "success",
        "data": {"resultType": "vector", "result": result},
    }
    if warnings:
        document["warnings"] = list(warnings)
    return 200, JSON, json.dumps(document).encode()


class Stub:
    """A running stub; `requests` are those that it got."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[Request] = []


@contextlib.contextmanager
def answering(
    answer: Callable[[Request], Reply], context: ssl.SSLContext | None = None
) -> Iterator[Stub]:
    """Serve what `answer` makes of each request, over TLS if there is a context."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = Request(self)
            stub.requests.append(request)
            status, headers, body = answer(request)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", headers.get("X-Claim", str(len(body))))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.handle_error = lambda request, client_address: None  # type: ignore[method-assign]
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        scheme = "http" if context is None else "https"
        stub = Stub(f"{scheme}://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield stub
        finally:
            # one that goes on would spin on whatever gets its descriptor next
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def raw(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server below HTTP: `talk` gets each connection. Gives its URL."""

    def work() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    talk(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=work, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)


def drip(connection: socket.socket) -> None:
    """A byte now and then, so that no timeout of a single read ever passes."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    for _ in range(60):  # the client's thread reads on, whoever has given up on it
        connection.sendall(b"x")
        time.sleep(0.05)


def make_certificate(folder: Path, name: str = "127.0.0.1") -> tuple[Path, Path]:
    """A self-signed certificate and its key. Python 3.13 wants to read what the key may do."""
    return _issue(folder, name, "keyUsage=critical,digitalSignature,keyCertSign")


def make_lax_chain(folder: Path) -> tuple[Path, Path, Path]:
    """A certificate, its key and the authority, which does not say what its key may do."""
    authority = folder / "authority"
    authority.mkdir()
    ca, ca_key = _issue(authority, "127.0.0.2")
    signed_by = ["-CA", str(ca), "-CAkey", str(ca_key)]
    return (*_issue(folder, "127.0.0.1", "basicConstraints=critical,CA:FALSE", *signed_by), ca)


def _issue(folder: Path, name: str, extension: str = "", *signed_by: str) -> tuple[Path, Path]:
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-subj", f"/CN={name}", "-addext", f"subjectAltName=IP:{name}", "-days", "2",
         *(["-addext", extension] if extension else []), *signed_by,
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


class Result:
    """How a run of the command ended."""

    def __init__(self, code: int, stdout: str, stderr: str) -> None:
        self.returncode = code
        self.stdout = stdout
        self.stderr = stderr


def fleet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> Result:
    """Run `dynstack-probe fleet` in this process, through the command line's own code."""
    monkeypatch.setattr("sys.argv", ["dynstack-probe", "fleet", *arguments])
    capsys.readouterr()
    code = cli.main()
    out, err = capsys.readouterr()
    return Result(code, out, err)
