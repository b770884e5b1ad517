# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon's HTTP server: /metrics, a landing page, /-/healthy and /-/ready.

One thread does all I/O, non-blocking; a few workers build the responses. A slow, idle or
hostile client thus ties up a buffer, not a thread, and any number of scrapers can keep
connections alive; http.server's ThreadingHTTPServer needs a thread per connection.
Supports HTTP/1.0 and 1.1, GET and HEAD; reads no request bodies and rejects ambiguous
requests.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import queue
import re
import selectors
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING

from dynstack_probe.errors import UsageError
from dynstack_probe.text import tell

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from dynstack_probe.httpd.web_config import WebConfig

WORKERS = 2
BACKLOG = 128
RECEIVE_BYTES = 16 * 1024
# smaller responses fit in one packet anyway
MIN_GZIP_BYTES = 1400
# measured on 24 KB of metrics: level 1 gives 2.6 KB in 0.13 ms, level 6 2.2 KB in 0.20 ms
GZIP_LEVEL = 1
# when out of file descriptors
ACCEPT_PAUSE_SECONDS = 0.5
# lingering close: closing with unread data in the receive buffer sends a RST, on which the
# client may discard the response
LINGER_SECONDS = 1.0
# for in-flight responses when the server stops
STOP_SECONDS = 0.5
JOIN_SECONDS = 0.4
# at most one message per interval, so that no client can flood the log
LOG_INTERVAL_SECONDS = 60.0

REQUEST_LINE = re.compile(r"([A-Z]+) ([!-~]+) HTTP/1\.([01])")
VERSION = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3}){0,2}")
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")

TEXT = "text/plain; charset=utf-8"
LANDING_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
# Relative, so that they also work under a proxy's path prefix.
LINKS = (("Metrics", "metrics"), ("Healthy?", "-/healthy"), ("Ready?", "-/ready"))
LANDING_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>dynstack-probe</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 1.05rem/1.6 system-ui, sans-serif; max-width: 42rem; margin: 3rem auto;
        padding: 0 1rem; overflow-wrap: anywhere }}
dt {{ font-weight: bold; margin-top: 0.8rem }}
dd {{ margin: 0 }}
nav a {{ margin-right: 1.5rem }}
</style>
</head>
<body>
<h1>dynstack-probe</h1>
<dl>
{facts}
</dl>
<nav>{links}</nav>
</body>
</html>
"""


@dataclass(frozen=True)
class Limits:
    """Resource limits, per client and in total."""

    connections: int = 128
    """Beyond these, the connection that has been waiting longest is closed for the new one."""
    head_bytes: int = 16 * 1024
    """Of a request line and its headers."""
    request_seconds: float = 10.0
    """For a TLS handshake, and for a complete request: in total, not between bytes."""
    send_seconds: float = 30.0
    """For sending a complete response."""
    idle_seconds: float = 120.0
    """Keep-alive timeout; Prometheus scrapes every minute by default."""


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of `127.0.0.1:10016`, `[::1]:10016`, `localhost:10016` or `:10016`.

    An empty host means all addresses. Raises UsageError for anything else.
    """
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^\s\[\]:/]*)):([0-9]{1,5})", text)
    if match is None or int(match[3]) > 65535:
        raise UsageError(
            f"can't listen on {text!r}: give HOST:PORT, such as 127.0.0.1:10016 or [::1]:10016"
        )
    return match[1] or match[2] or "", int(match[3])


class WebServer:
    """Serves `registry` and a few pages on one address.

    The constructor binds, so that a privileged port is bound before privileges are dropped;
    `start()` starts the threads. `landing` yields the landing page's rows, (name, plain text);
    `ready` and `healthy` decide /-/ready and /-/healthy. All three, and the collectors of
    `registry`, are called from the workers, up to two at a time, and must return quickly.
    """

    def __init__(
        self,
        listen: str | socket.socket,
        registry: CollectorRegistry,
        landing: Callable[[], Iterable[tuple[str, str]]],
        ready: Callable[[], bool],
        healthy: Callable[[], bool],
        web_config: WebConfig | None = None,
        limits: Limits = Limits(),
        log: Callable[[str], None] = tell,
    ) -> None:
        """listen: HOST:PORT, or a listening socket. Raises UsageError if it can't listen."""
        self._pages = _Pages(registry, landing, ready, healthy)
        self._web_config = web_config
        self._limits = limits
        self._log_now = log
        self._logged_at = float("-inf")
        self._listener = _listen(listen) if isinstance(listen, str) else listen
        self._listener.setblocking(False)
        # as bound: the actual port if port 0 was requested
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self._selector = selectors.DefaultSelector()
        self._accept_again_at = float("-inf")
        self._waker = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._connections: set[_Connection] = set()
        self._jobs: _Jobs = queue.SimpleQueue()
        # Separate: one bcrypt at a time, and password guessing delays no authenticated client.
        self._unauthenticated: _Jobs = queue.SimpleQueue()
        self._answers: deque[tuple[_Connection, bytes]] = deque()
        self._generation = 0
        self._stop_by = float("inf")
        self._input_output = threading.Thread(target=self._run, name="web-io", daemon=True)
        served = [self._jobs] * WORKERS
        if web_config is not None:
            served.append(self._unauthenticated)
        self._workers = [
            (
                threading.Thread(target=self._work, args=(jobs,), name="web-worker", daemon=True),
                jobs,
            )
            for jobs in served
        ]

    @property
    def url(self) -> str:
        """The landing page's URL."""
        host, port = self.address
        scheme = "https" if self._web_config and self._web_config.uses_tls else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/"

    def start(self) -> None:
        """Serve in daemon threads."""
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._waker, selectors.EVENT_READ)
        self._input_output.start()
        for worker, _ in self._workers:
            worker.start()

    def reload(self) -> None:
        """Reload the web configuration and close idle connections.

        Raises UsageError, and keeps the old configuration, if the new one is invalid.
        """
        if self._web_config is None:
            return
        self._web_config.reload()
        self._generation += 1
        self._wake()

    def stop(self) -> None:
        """Close everything within a second; in-flight responses get half of it."""
        if self._stopping:
            return
        self._stop_by = time.monotonic() + STOP_SECONDS
        give_up_at = self._stop_by + JOIN_SECONDS
        if self._input_output.ident is None:
            self._close_all()
            os.close(self._waker)
            return
        self._wake()
        self._input_output.join(give_up_at - time.monotonic())
        for _, jobs in self._workers:
            jobs.put(None)
        for worker, _ in self._workers:
            worker.join(max(0.0, give_up_at - time.monotonic()))
        if not any(worker.is_alive() for worker, _ in self._workers):
            os.close(self._waker)  # else a late worker might write to a reused descriptor

    @property
    def _stopping(self) -> bool:
        return self._stop_by < float("inf")

    # --- worker threads: requests to responses, no I/O

    def _work(self, jobs: _Jobs) -> None:
        while (job := jobs.get()) is not None:
            connection, request = job
            try:
                answer = self._encode(connection, request, self._respond(request))
            except Exception as error:
                self._log(f"can't answer {request.path}: {type(error).__name__}: {error}")
                failure = _plain(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error; see the log")
                answer = self._encode(connection, request, failure)
            self._answers.append((connection, answer))
            self._wake()

    def _respond(self, request: _Request) -> _Response:
        config = self._web_config
        if config is not None and not config.permits(request.headers.get("authorization")):
            return _UNAUTHORIZED
        return self._pages.answer(request)

    def _encode(
        self, connection: _Connection, request: _Request | None, response: _Response
    ) -> bytes:
        """The response as bytes; also sets connection.keep_alive."""
        connection.keep_alive = (
            request is not None
            and request.keep_alive
            and connection.generation == self._generation
            and not self._stopping
        )
        headers = {
            "Server": "dynstack-probe",
            "Date": formatdate(usegmt=True),
            "Connection": "keep-alive" if connection.keep_alive else "close",
            "Content-Type": response.content_type,
            "Content-Length": str(len(response.body)),
            "X-Content-Type-Options": "nosniff",
            **response.headers,
            **(self._web_config.headers if self._web_config else {}),
        }
        lines = [f"HTTP/1.1 {response.status.value} {response.status.phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items() if value]
        head = "\r\n".join((*lines, "", "")).encode("ascii")
        return head if request and request.method == "HEAD" else head + response.body

    # --- the I/O thread

    def _run(self) -> None:
        try:
            while not (self._stopping and self._is_finished()):
                for key, _ in self._selector.select(self._select_timeout()):
                    if key.fileobj is self._listener:
                        self._accept()
                    elif key.fileobj == self._waker:
                        os.eventfd_read(self._waker)
                    else:
                        self._advance(key.data)
                while self._answers:
                    self._start_sending(*self._answers.popleft())
                self._close_expired()
                if self._stopping and self._listener.fileno() >= 0:
                    self._stop_listening()
        finally:
            self._close_all()

    def _select_timeout(self) -> float | None:
        deadlines = [connection.deadline for connection in self._connections]
        if self._accept_again_at > float("-inf"):
            deadlines.append(self._accept_again_at)
        soonest = min([*deadlines, self._stop_by], default=float("inf"))
        return None if soonest == float("inf") else max(0.0, soonest - time.monotonic())

    def _is_finished(self) -> bool:
        in_flight = (_State.ANSWERING, _State.SENDING, _State.LINGERING)
        if time.monotonic() >= self._stop_by:
            return True
        return not any(connection.state in in_flight for connection in self._connections)

    def _stop_listening(self) -> None:
        with contextlib.suppress(KeyError):  # not registered while accepting is paused
            self._selector.unregister(self._listener)
        self._listener.close()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            os.eventfd_write(self._waker, 1)

    def _accept(self) -> None:
        while not self._stopping:
            try:
                accepted, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._evict_longest_waiting()
                    self._pause_accepting(error)
                    return
                continue  # the client disconnected meanwhile
            if len(self._connections) >= self._limits.connections:
                self._evict_longest_waiting()
            if len(self._connections) >= self._limits.connections:
                accepted.close()
                continue
            self._set_up_accepted(accepted)

    def _pause_accepting(self, error: OSError) -> None:
        self._log(f"can't accept connections: {error.strerror}")
        self._selector.unregister(self._listener)
        self._accept_again_at = time.monotonic() + ACCEPT_PAUSE_SECONDS

    def _set_up_accepted(self, accepted: socket.socket) -> None:
        try:
            accepted.setblocking(False)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            context = self._web_config.tls_context() if self._web_config else None
            state = _State.READING
            if context is not None:
                accepted = context.wrap_socket(
                    accepted, server_side=True, do_handshake_on_connect=False
                )
                state = _State.HANDSHAKING
        except (OSError, ValueError):
            accepted.close()
            return
        connection = _Connection(accepted, state, self._generation)
        self._connections.add(connection)
        self._set_deadline(connection, self._limits.request_seconds)
        self._advance(connection)

    def _advance(self, connection: _Connection) -> None:
        """Run a connection's state machine until it would block."""
        if connection not in self._connections:
            return  # closed since the event was returned
        try:
            _STEPS[connection.state](self, connection)
        except OSError as error:
            if event := _blocked_on(error, connection.state):
                self._watch(connection, event)
            elif connection.state is _State.HANDSHAKING:
                self._handshake_failed(connection, error)
            else:
                self._close(connection)
        except Exception as error:  # a bug must not end the thread
            self._log(f"web server: {type(error).__name__}: {error}")
            self._close(connection)

    def _do_handshake(self, connection: _Connection) -> None:
        connection.client.do_handshake()  # type: ignore[attr-defined]
        certificate = connection.client.getpeercert()  # type: ignore[attr-defined]
        if self._web_config and not self._web_config.accepts_client(certificate):
            self._log("TLS: client certificate has none of client_allowed_sans")
            self._close(connection)
            return
        connection.state = _State.READING
        self._read(connection)

    def _handshake_failed(self, connection: _Connection, error: OSError) -> None:
        if getattr(error, "reason", None) != "HTTP_REQUEST":
            self._log(f"TLS handshake failed: {getattr(error, 'reason', None) or error}")
            self._close(connection)
            return
        self._unwatch(connection)
        connection.client = socket.socket(fileno=connection.client.detach())
        self._reject(connection, HTTPStatus.BAD_REQUEST, "this is an HTTPS server")

    def _read(self, connection: _Connection) -> None:
        received = connection.received
        while (end := received.find(b"\r\n\r\n")) < 0:
            if len(received) > self._limits.head_bytes:
                self._reject(connection, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
                return
            data = connection.client.recv(RECEIVE_BYTES)
            if not data:
                self._close(connection)
                return
            if not received:
                self._set_deadline(connection, self._limits.request_seconds)
            received += data
            if not received[:1].isalpha():  # such as a TLS ClientHello
                self._reject(connection, HTTPStatus.BAD_REQUEST)
                return
        head = bytes(received[:end])
        del received[: end + 4]
        request = parse_request(head) if end <= self._limits.head_bytes else None
        if isinstance(request, _Request):
            self._dispatch(connection, request)
        else:
            self._reject(connection, request or HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def _dispatch(self, connection: _Connection, request: _Request) -> None:
        """Queue it for a worker; the connection is not read until its response is ready."""
        config = self._web_config
        jobs = self._jobs
        if config is not None and config.needs_bcrypt(request.headers.get("authorization")):
            jobs = self._unauthenticated
        self._unwatch(connection)
        connection.state = _State.ANSWERING
        self._set_deadline(connection, float("inf"))
        jobs.put((connection, request))

    def _reject(
        self, connection: _Connection, status: HTTPStatus, reason: str | None = None
    ) -> None:
        response = _plain(status, reason or status.phrase)
        self._start_sending(connection, self._encode(connection, None, response))

    def _start_sending(self, connection: _Connection, payload: bytes) -> None:
        connection.unsent = memoryview(payload)
        connection.state = _State.SENDING
        self._set_deadline(connection, self._limits.send_seconds)
        self._advance(connection)

    def _send(self, connection: _Connection) -> None:
        while connection.unsent:
            sent = connection.client.send(connection.unsent)
            connection.unsent = connection.unsent[sent:]
        if connection.keep_alive:
            connection.state = _State.READING
            limits = self._limits
            self._set_deadline(
                connection, limits.request_seconds if connection.received else limits.idle_seconds
            )
            self._read(connection)
            return
        connection.state = _State.LINGERING
        self._set_deadline(connection, LINGER_SECONDS)
        if hasattr(connection.client, "unwrap"):
            with contextlib.suppress(OSError, ValueError):
                connection.client.unwrap()  # close_notify: the response was not truncated
        connection.client.shutdown(socket.SHUT_WR)
        self._drain(connection)

    def _drain(self, connection: _Connection) -> None:
        if connection.client.recv(RECEIVE_BYTES):
            self._watch(connection, selectors.EVENT_READ)
        else:
            self._close(connection)

    def _close_expired(self) -> None:
        now = time.monotonic()
        for connection in list(self._connections):
            is_stale = connection.generation != self._generation and connection.is_idle
            if connection.deadline <= now or is_stale:
                self._close(connection)
        if float("-inf") < self._accept_again_at <= now and not self._stopping:
            self._accept_again_at = float("-inf")
            self._selector.register(self._listener, selectors.EVENT_READ)

    def _evict_longest_waiting(self) -> None:
        """Of the connections waiting for their client, close the one that has waited longest."""
        waiting = [c for c in self._connections if c.state is not _State.ANSWERING]
        if waiting:
            self._close(min(waiting, key=lambda connection: connection.since))

    def _set_deadline(self, connection: _Connection, seconds: float) -> None:
        connection.since = time.monotonic()
        connection.deadline = connection.since + seconds

    def _watch(self, connection: _Connection, event: int) -> None:
        if connection.watched == event:
            return
        if connection.watched:
            self._selector.modify(connection.client, event, connection)
        else:
            self._selector.register(connection.client, event, connection)
        connection.watched = event

    def _unwatch(self, connection: _Connection) -> None:
        if connection.watched:
            self._selector.unregister(connection.client)
            connection.watched = 0

    def _close(self, connection: _Connection) -> None:
        self._unwatch(connection)
        self._connections.discard(connection)
        connection.client.close()

    def _close_all(self) -> None:
        for connection in list(self._connections):
            self._close(connection)
        self._selector.close()
        self._listener.close()

    def _log(self, message: str) -> None:
        now = time.monotonic()
        if now - self._logged_at >= LOG_INTERVAL_SECONDS:
            self._logged_at = now
            self._log_now(message)


class _State(enum.Enum):
    """A connection's state."""

    HANDSHAKING = enum.auto()
    READING = enum.auto()
    ANSWERING = enum.auto()
    SENDING = enum.auto()
    LINGERING = enum.auto()


_STEPS: dict[_State, Callable[[WebServer, _Connection], None]] = {
    _State.HANDSHAKING: WebServer._do_handshake,
    _State.READING: WebServer._read,
    _State.ANSWERING: lambda server, connection: None,
    _State.SENDING: WebServer._send,
    _State.LINGERING: WebServer._drain,
}


@dataclass(slots=True, eq=False)
class _Connection:
    """A client connection and its state."""

    client: socket.socket
    state: _State
    generation: int
    received: bytearray = field(default_factory=bytearray)
    unsent: memoryview | bytes = b""
    keep_alive: bool = False
    since: float = 0.0
    deadline: float = float("inf")
    watched: int = 0

    @property
    def is_idle(self) -> bool:
        return self.state is _State.READING and not self.received


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    """Without the query, and without scheme and host if sent in absolute form."""
    query: str
    headers: dict[str, str]
    """By lower-case name; repeated headers are joined by commas."""
    keep_alive: bool


@dataclass(frozen=True)
class _Response:
    status: HTTPStatus
    content_type: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


_Jobs = queue.SimpleQueue[tuple[_Connection, _Request] | None]


def parse_request(head: bytes) -> _Request | HTTPStatus:
    """Parse a request line and headers (RFC 9112); an HTTPStatus rejects them.

    Strict against request smuggling: no line folding, no control characters, one Host. A body
    is not read: the connection closes after the response.
    """
    first, *lines = head.decode("latin-1").split("\r\n")
    match = REQUEST_LINE.fullmatch(first)
    if match is None:
        return HTTPStatus.BAD_REQUEST
    method, target, minor = match.groups()
    headers: dict[str, str] = {}
    hosts = 0
    for line in lines:
        name, colon, value = line.partition(":")
        if not (colon and HEADER_NAME.fullmatch(name) and HEADER_VALUE.fullmatch(value)):
            return HTTPStatus.BAD_REQUEST
        name, value = name.lower(), value.strip(" \t")
        hosts += name == "host"
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    if hosts > 1 or (minor == "1" and not hosts):
        return HTTPStatus.BAD_REQUEST
    options = {option.strip() for option in headers.get("connection", "").lower().split(",")}
    keep_alive = "keep-alive" in options if minor == "0" else "close" not in options
    has_body = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
    target = re.sub(r"^https?://[^/?]*", "", target, flags=re.IGNORECASE)
    path, _, query = target.partition("?")
    return _Request(method, path or "/", query, headers, keep_alive and not has_body)


@dataclass(frozen=True)
class _Pages:
    registry: CollectorRegistry
    landing: Callable[[], Iterable[tuple[str, str]]]
    ready: Callable[[], bool]
    healthy: Callable[[], bool]

    def answer(self, request: _Request) -> _Response:
        if request.method not in ("GET", "HEAD"):
            refused = _plain(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD are allowed")
            return replace(refused, headers={"Allow": "GET, HEAD"})
        match request.path:
            case "/metrics":
                return self._metrics(request)
            case "/":
                return self._landing_page()
            case "/-/healthy":
                return _probe_response(self.healthy(), "healthy")
            case "/-/ready":
                return _probe_response(self.ready(), "ready")
        return _plain(HTTPStatus.NOT_FOUND, "not found; see / and /metrics")

    def _metrics(self, request: _Request) -> _Response:
        from prometheus_client.exposition import choose_encoder

        encoder, content_type = choose_encoder(_safe_accept(request.headers.get("accept", "")))
        body = encoder(self._restricted(request.query))
        headers = {"Vary": "Accept, Accept-Encoding"}
        wants_gzip = _accepts_gzip(request.headers.get("accept-encoding", ""))
        if wants_gzip and len(body) >= MIN_GZIP_BYTES:
            import gzip

            body = gzip.compress(body, compresslevel=GZIP_LEVEL, mtime=0)
            headers["Content-Encoding"] = "gzip"
        return _Response(HTTPStatus.OK, content_type, body, headers)

    def _restricted(self, query: str) -> CollectorRegistry:
        """The registry, restricted to the sample names in ?name[]= if there are any.

        CollectorRegistry.restricted_registry() only knows names that describe() declares.
        """
        from urllib.parse import parse_qs

        names = frozenset(parse_qs(query).get("name[]", ()))
        if not names:
            return self.registry
        from prometheus_client import CollectorRegistry
        from prometheus_client.core import Metric
        from prometheus_client.registry import Collector

        whole = self.registry

        class Named(Collector):
            def collect(self) -> Iterable[Metric]:
                for metric in whole.collect():
                    samples = [sample for sample in metric.samples if sample.name in names]
                    if samples:
                        kept = Metric(metric.name, metric.documentation, metric.type, metric.unit)
                        kept.samples = samples
                        yield kept

        only = CollectorRegistry()
        only.register(Named())
        return only

    def _landing_page(self) -> _Response:
        import html

        facts = "\n".join(
            f"<dt>{html.escape(name)}</dt>\n<dd>{html.escape(text)}</dd>"
            for name, text in self.landing()
        )
        links = "\n".join(f'<a href="{path}">{name}</a>' for name, path in LINKS)
        body = LANDING_PAGE.format(facts=facts, links=links).encode()
        headers = {"Content-Security-Policy": LANDING_POLICY}
        return _Response(HTTPStatus.OK, "text/html; charset=utf-8", body, headers)


def _plain(status: HTTPStatus, line: str) -> _Response:
    return _Response(status, TEXT, f"{line}\n".encode())


_UNAUTHORIZED = _Response(
    HTTPStatus.UNAUTHORIZED,
    TEXT,
    b"authentication required\n",
    {"WWW-Authenticate": 'Basic realm="dynstack-probe"'},
)


def _probe_response(good: bool, word: str) -> _Response:
    if good:
        return _plain(HTTPStatus.OK, f"dynstack-probe is {word}")
    return _plain(HTTPStatus.SERVICE_UNAVAILABLE, f"dynstack-probe is not {word}")


def _safe_accept(accept: str) -> str:
    """The Accept header for prometheus_client; empty if a version in it is malformed.

    Newer releases parse these versions unchecked and echo them in the Content-Type.
    """
    versions = re.findall(r"version\s*=\s*([^;,]*)", accept)
    return accept if all(VERSION.fullmatch(version.strip()) for version in versions) else ""


def _accepts_gzip(accept_encoding: str) -> bool:
    for offer in accept_encoding.lower().split(","):
        coding, _, weight = offer.partition(";")
        if coding.strip() == "gzip":
            return re.fullmatch(r"\s*q\s*=\s*0(\.0*)?\s*", weight) is None
    return False


def _blocked_on(error: OSError, state: _State) -> int:
    """The selector event to wait for after EAGAIN or its TLS equivalent; 0 for a real error."""
    if isinstance(error, BlockingIOError):
        return selectors.EVENT_WRITE if state is _State.SENDING else selectors.EVENT_READ
    ssl = sys.modules.get("ssl")  # 6 MB, not to be imported for plain HTTP
    if ssl is None:
        return 0
    if isinstance(error, ssl.SSLWantReadError):
        return selectors.EVENT_READ
    return selectors.EVENT_WRITE if isinstance(error, ssl.SSLWantWriteError) else 0


def _listen(address: str) -> socket.socket:
    host, port = parse_address(address)
    try:
        return _bind(host, port)
    except OSError as error:
        reason = {
            errno.EADDRINUSE: "the port is in use",
            errno.EADDRNOTAVAIL: "no such address on this host",
            errno.EACCES: "no permission for this port",
        }.get(error.errno or 0, error.strerror)
        raise UsageError(f"can't listen on {address}: {reason}") from error


def _bind(host: str, port: int) -> socket.socket:
    if not host:
        try:
            return _bind("::", port)  # dual-stack
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise
            host = "0.0.0.0"
    # bytes: for a str Python imports the idna codec and unicodedata, 1 MB
    found = socket.getaddrinfo(
        host.encode("ascii", "replace"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    # IPv4 first, as in Go, if a name resolves to both
    family, kind, protocol, _, where = min(found, key=lambda info: info[0])
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::")
        listener.bind(where)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
