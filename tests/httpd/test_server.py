# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import contextlib
import gzip
import http.client
import re
import resource
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from dynstack_probe.errors import UsageError
from dynstack_probe.httpd import server as web
from dynstack_probe.httpd.server import WebServer
from dynstack_probe.httpd.web_config import WebConfig

OPENMETRICS = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.3"
TASKS = 97


class Stacks(Collector):
    """A collector of as many series as the daemon has."""

    def __init__(self) -> None:
        self.collected = 0
        self.before: Callable[[], None] = lambda: None

    def collect(self) -> Iterator[GaugeMetricFamily]:
        self.before()
        self.collected += 1
        family = GaugeMetricFamily("dynstack_tasks", "Tasks.", labels=["number"])
        for number in range(TASKS):
            family.add_metric([str(number)], 1)
        yield family


@dataclass
class World:
    """A running server and what it tells."""

    server: WebServer
    stacks: Stacks
    state: dict[str, bool]
    facts: list[tuple[str, str]]
    logged: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        return self.server.address[1]

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=5)

    def get(
        self, path: str, headers: dict[str, str] | None = None, method: str = "GET"
    ) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        connection.request(method, path, headers={"Connection": "close", **(headers or {})})
        return connection.getresponse()

    def raw(self, request: bytes) -> bytes:
        """All that the server answers until it closes."""
        with self.connect() as client:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                client.sendall(request)
            return received(client)


def received(client: socket.socket) -> bytes:
    answer = b""
    with contextlib.suppress(ConnectionResetError):
        while data := client.recv(65536):
            answer += data
    return answer


def read_response(client: socket.socket) -> bytes:
    """One response of a connection that goes on."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += client.recv(1)
    length = next(
        int(line.split(b":")[1]) for line in answer.split(b"\r\n") if b"Content-Length" in line
    )
    while length > 0:
        data = client.recv(length)
        assert data
        answer += data
        length -= len(data)
    return answer


@contextlib.contextmanager
def serving(
    web_config: WebConfig | None = None,
    listen: str = "127.0.0.1:0",
    registry: CollectorRegistry | None = None,
    **limits: Any,
) -> Iterator[World]:
    stacks = Stacks()
    if registry is None:
        registry = CollectorRegistry()
        registry.register(stacks)
    state = {"ready": True, "healthy": True}
    facts = [("Stacks & more", "97 stacks <here> & now.")]
    logged: list[str] = []
    server = WebServer(
        listen,
        registry,
        lambda: facts,
        lambda: state["ready"],
        lambda: state["healthy"],
        web_config,
        web.Limits(**limits),
        logged.append,
    )
    threads_before = set(threading.enumerate())
    server.start()
    try:
        yield World(server, stacks, state, facts, logged)
    finally:
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 1
    assert {t for t in threading.enumerate() if t.name.startswith("web-")} <= threads_before


@pytest.fixture
def world() -> Iterator[World]:
    with serving() as world:
        yield world


# --- pages


def test_classic_metrics(world: World) -> None:
    response = world.get("/metrics")
    body = response.read().decode()
    assert response.status == 200
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert body.count("\ndynstack_tasks{") == TASKS
    assert "# EOF" not in body


def test_only_what_is_asked_for_by_name_as_prometheus_clients_own_server() -> None:
    registry = CollectorRegistry()
    for name in ("pages", "faults"):
        Counter(name, "A counter.", registry=registry).inc(97)
    Gauge("stacks", "A gauge.", registry=registry).set(89)
    queries = {
        "name[]=stacks": ["stacks"],
        "name%5B%5D=faults_total&name[]=stacks&x=1": ["faults_total", "stacks"],
        "name[]=nothing": ["nothing"],
        "name[]=pages": ["pages"],  # a family, of which no sample has this name
    }
    with serving(registry=registry) as world:
        for query, names in queries.items():
            expected = generate_latest(registry.restricted_registry(names))
            answer = world.get(f"/metrics?{query}").read()
            # restricted_registry() asks its collectors in the order of a set
            assert sorted(answer.splitlines()) == sorted(expected.splitlines()), query
        for query in ("", "name[]=", "name=stacks"):
            assert world.get(f"/metrics?{query}").read() == generate_latest(registry), query


def test_what_can_be_named_need_not_be_known_before_collecting(world: World) -> None:
    body = world.get("/metrics?name[]=dynstack_tasks").read().decode()
    assert body.count("\ndynstack_tasks{") == TASKS
    assert world.get("/metrics?name[]=stacks").read() == b""


def test_openmetrics_if_asked_for(world: World) -> None:
    response = world.get("/metrics?x=1", {"Accept": OPENMETRICS})
    assert response.headers["Content-Type"].startswith("application/openmetrics-text; version=")
    assert response.read().endswith(b"# EOF\n")


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text;version=not.a.number",
        "application/openmetrics-text;version=2.x",
        'application/openmetrics-text;version=1.0.0,text/plain;version="1"',
        "application/openmetrics-text;version=1.0.0\xe9\xb2",
        "text/plain;version=\xb2",
        ";;;,,=,q=",
        "text/plain;version=" + "9" * 5000,
    ],
)
def test_an_odd_accept_header_is_no_failure(world: World, accept: str) -> None:
    answer = world.raw(
        b"GET /metrics HTTP/1.0\r\nAccept: " + accept.encode("latin-1") + b"\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\xe9" not in answer
    assert len(answer.partition(b"\r\n\r\n")[0]) < 6000
    assert world.logged == []


@pytest.mark.parametrize(
    ("accepted", "compressed"),
    [
        ("gzip", True),
        ("deflate, gzip;q=0.5, br", True),
        ("gzip;q=0", False),
        ("gzip; q=0.00", False),
        ("identity", False),
        ("xgzip", False),
    ],
)
def test_gzip(world: World, accepted: str, compressed: bool) -> None:
    response = world.get("/metrics", {"Accept-Encoding": accepted})
    body = response.read()
    assert (response.headers["Content-Encoding"] == "gzip") == compressed
    assert b"dynstack_tasks" in (gzip.decompress(body) if compressed else body)
    assert response.headers["Vary"] == "Accept, Accept-Encoding"


def test_landing_page(world: World) -> None:
    response = world.get("/")
    page = response.read().decode()
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert (
        response.headers["Content-Security-Policy"]
        == "default-src 'none'; style-src 'unsafe-inline'"
    )
    assert "<title>dynstack-probe</title>" in page
    assert "<dt>Stacks &amp; more</dt>\n<dd>97 stacks &lt;here&gt; &amp; now.</dd>" in page
    links = re.findall('<a href="([^"]+)">', page)
    assert links == ["metrics", "-/healthy", "-/ready"]
    assert [world.get(f"/{link}").status for link in links] == [200, 200, 200]
    assert "color-scheme: light dark" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "src=" not in page


@pytest.mark.parametrize("word", ["ready", "healthy"])
def test_ready_and_healthy(world: World, word: str) -> None:
    response = world.get(f"/-/{word}")
    assert (response.status, response.read()) == (200, f"dynstack-probe is {word}\n".encode())
    world.state[word] = False
    response = world.get(f"/-/{word}")
    assert response.status == 503
    assert response.read() == f"dynstack-probe is not {word}\n".encode()


def test_head_is_get_without_the_body(world: World) -> None:
    for path in ("/", "/metrics", "/-/ready", "/nothing"):
        whole, head = world.get(path), world.get(path, method="HEAD")
        assert head.status == whole.status
        assert head.headers["Content-Length"] == str(len(whole.read()))
        assert head.read() == b""


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/metrics/",
        "/METRICS",
        "//metrics",
        "/../../etc/passwd",
        "/metrics/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..%00/",
        "*",
        "/-/",
        "file:///etc/passwd",
    ],
)
def test_no_such_page(world: World, path: str) -> None:
    answer = world.raw(f"GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert b"root:" not in answer


def test_a_proxys_full_address(world: World) -> None:
    answer = world.raw(b"GET http://h:1/-/ready?a HTTP/1.0\r\n\r\n")
    assert answer.endswith(b"\r\n\r\ndynstack-probe is ready\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
def test_only_get_and_head(world: World, method: str) -> None:
    response = world.get("/metrics", method=method)
    assert response.status == 405
    assert response.headers["Allow"] == "GET, HEAD"
    assert world.stacks.collected == 0


def test_a_collector_that_fails_is_told_of_once(world: World) -> None:
    def fail() -> None:
        raise RuntimeError("no such map")

    world.stacks.before = fail
    for _ in range(3):
        response = world.get("/metrics")
        assert response.status == 500
        assert b"no such map" not in response.read()
    assert world.logged == ["can't answer /metrics: RuntimeError: no such map"]
    assert world.get("/-/ready").status == 200
    world.stacks.before = lambda: None
    assert world.get("/metrics").status == 200


# --- connections


def test_keep_alive_and_pipelining(world: World) -> None:
    with world.connect() as client:
        for _ in range(3):
            client.sendall(b"GET /-/ready HTTP/1.1\r\nHost: h\r\n\r\n")
            answer = read_response(client)
            assert b"\r\nConnection: keep-alive\r\n" in answer
        client.sendall(
            b"GET /-/ready HTTP/1.1\r\nHost: h\r\n\r\n"
            b"HEAD /-/healthy HTTP/1.1\r\nHost: h\r\n\r\n"
            b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
        )
        answers = received(client)
        assert answers.count(b"HTTP/1.1 200 OK\r\n") == 3
        assert answers.endswith(b"</html>\n")


def test_http_1_0_closes_unless_asked_not_to(world: World) -> None:
    assert b"\r\nConnection: close\r\n" in world.raw(b"GET / HTTP/1.0\r\n\r\n")
    with world.connect() as client:
        client.sendall(b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")
        assert b"\r\nConnection: keep-alive\r\n" in read_response(client)


def test_a_request_in_many_pieces(world: World) -> None:
    with world.connect() as client:
        for byte in b"GET /-/ready HTTP/1.1\r\nHost: h\r\n\r\n":
            client.sendall(bytes([byte]))
            time.sleep(0.001)
        assert read_response(client).startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_body_is_not_read_and_not_taken_for_a_request(world: World) -> None:
    smuggled = b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n"
    for header in (b"Content-Length: 37", b"Transfer-Encoding: chunked"):
        answer = world.raw(
            b"GET /-/ready HTTP/1.1\r\nHost: h\r\n" + header + b"\r\n\r\n" + smuggled
        )
        assert answer.count(b"HTTP/1.1 ") == 1
    answer = world.raw(
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2000000\r\n\r\n" + bytes(2_000_000)
    )
    assert answer.startswith(b"HTTP/1.1 405 ")
    assert world.stacks.collected == 0


HOSTILE = {
    "binary": bytes(range(256)),
    "zeros": bytes(100),
    "tls to a plain port": bytes.fromhex("1603010200010001fc0303") + bytes(500),
    "http 0.9": b"GET /\r\n\r\n",
    "http 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "empty line": b"\r\n\r\n",
    "no path": b"GET  HTTP/1.1\r\n\r\n",
    "two paths": b"GET / / HTTP/1.1\r\nHost: h\r\n\r\n",
    "path with a control character": b"GET /\x00 HTTP/1.1\r\nHost: h\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "folded line": b"GET / HTTP/1.1\r\nHost: a\r\nAccept: b\r\n c\r\n\r\n",
    "bare newline": b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
    "bare return": b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
    "space before colon": b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    "no colon": b"GET / HTTP/1.1\r\nHost: a\r\ngarbage\r\n\r\n",
    "no name": b"GET / HTTP/1.1\r\n: a\r\n\r\n",
    "a header of zeros": b"GET / HTTP/1.1\r\nHost: \0\r\n\r\n",
    "version to come": b"GET / HTTP/1.9\r\nHost: a\r\n\r\n",
}


@pytest.mark.parametrize("request_bytes", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_no_request(world: World, request_bytes: bytes) -> None:
    answer = world.raw(request_bytes)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"\r\nConnection: close\r\n" in answer
    assert world.get("/metrics").status == 200


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100_000 + b"\r\n",
        b"G" * 1_000_000,
        b"GET / HTTP/1.0\r\nX: " + b"a" * 16_400 + b"\r\n\r\n",
    ],
    ids=["header", "path", "many headers", "endless", "a little too much"],
)
def test_a_huge_head(world: World, head: bytes) -> None:
    assert world.raw(head).startswith(b"HTTP/1.1 431 ")
    assert world.get("/metrics").status == 200


def test_a_head_of_allowed_size(world: World) -> None:
    head = b"GET / HTTP/1.0\r\nX: " + b"a" * 16_000 + b"\r\n\r\n"
    assert world.raw(head).startswith(b"HTTP/1.1 200 ")


def test_clients_that_reset(world: World) -> None:
    for request in (b"", b"GET /met", b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n"):
        for _ in range(20):
            client = world.connect()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sendall(request)
            client.close()
    assert world.get("/metrics").status == 200
    assert world.logged == []


# --- many, slow and silent clients


def test_60_scrapers_at_a_time_with_idle_connections_kept_open(world: World) -> None:
    scrapers = [world.connect() for _ in range(60)]
    try:
        for _ in range(2):
            for scraper in scrapers:
                scraper.sendall(b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n")
            for scraper in scrapers:
                answer = read_response(scraper)
                assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
                assert answer.count(b"\ndynstack_tasks{") == TASKS
        workers = [t for t in threading.enumerate() if t.name.startswith("web-")]
        assert len(workers) == 1 + web.WORKERS
        assert world.stacks.collected == 120
    finally:
        for scraper in scrapers:
            scraper.close()


def test_60_scrapers_in_threads_see_whole_answers(world: World) -> None:
    bodies: list[bytes] = []
    start = threading.Barrier(60)

    def scrape() -> None:
        start.wait()
        bodies.append(world.get("/metrics").read())

    threads = [threading.Thread(target=scrape) for _ in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(bodies) == 60
    assert len(set(bodies)) == 1


def test_silent_and_slow_clients_are_closed() -> None:
    with serving(request_seconds=0.3, idle_seconds=0.2) as world:
        silent, slow, idle = world.connect(), world.connect(), world.connect()
        with silent, slow, idle:
            idle.sendall(b"GET /-/ready HTTP/1.1\r\nHost: h\r\n\r\n")
            read_response(idle)
            began = time.monotonic()
            with contextlib.suppress(OSError):
                for _ in range(100):  # a byte now and then wins no time
                    slow.sendall(b"G")
                    time.sleep(0.02)
            assert received(silent) == received(slow) == received(idle) == b""
            assert time.monotonic() - began < 2.5


def test_a_client_that_does_not_read_its_answer() -> None:
    with serving(send_seconds=0.3) as world:
        world.facts[:] = [("", "x" * 8_000_000)]
        with socket.socket() as stuck:
            stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stuck.connect(("127.0.0.1", world.port))
            stuck.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            assert world.get("/metrics").status == 200
            time.sleep(0.6)
            stuck.settimeout(5)
            assert len(received(stuck)) < 8_000_000


def test_more_clients_than_it_has_room_for() -> None:
    """A flood of connections that say nothing pushes out its own oldest ones."""
    with serving(connections=20) as world:
        flood = []
        for _ in range(100):
            flood.append(world.connect())
            flood[-1].sendall(b"GET /slow")
        assert world.get("/metrics").status == 200
        assert received(flood[0]) == b""
        for client in flood:
            client.close()


def test_out_of_file_descriptors(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "ACCEPT_PAUSE_SECONDS", 0.1)
    idle = world.connect()
    idle.sendall(b"GET /-/ready HTTP/1.1\r\nHost: h\r\n\r\n")
    read_response(idle)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as newcomer:
        newcomer.settimeout(5)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))  # those that are open stay so
        try:
            newcomer.connect(world.server.address)
            newcomer.sendall(b"GET /-/ready HTTP/1.0\r\n\r\n")
            assert received(idle) == b""  # makes room
            before = time.process_time()
            time.sleep(0.15)
            assert time.process_time() - before < 0.05
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert received(newcomer).startswith(b"HTTP/1.1 200 ")
    assert world.logged == ["can't accept connections: Too many open files"]
    idle.close()


def test_slow_collection_does_not_stop_health(world: World) -> None:
    release = threading.Event()
    world.stacks.before = lambda: void(release.wait(5))
    with world.connect() as scraper:
        scraper.sendall(b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n")
        assert world.get("/-/healthy").status == 200
        release.set()
        assert read_response(scraper).startswith(b"HTTP/1.1 200 OK\r\n")


def void(_: object) -> None:
    """For a lambda that must return nothing."""


# --- start and stop


def test_stops_with_every_kind_of_connection_open() -> None:
    with serving() as world:
        silent, half, idle = world.connect(), world.connect(), world.connect()
        half.sendall(b"GET /metr")
        idle.sendall(b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n")
        read_response(idle)
        began = time.monotonic()
        world.server.stop()
        assert time.monotonic() - began < 0.3  # none of them is worth waiting for
        for client in (silent, half, idle):
            assert received(client) == b""
            client.close()
        with pytest.raises(ConnectionRefusedError):
            world.connect()


def test_stop_lets_an_answer_under_way_finish() -> None:
    with serving() as world:
        begun = threading.Event()

        def dawdle() -> None:
            begun.set()
            time.sleep(0.2)

        world.stacks.before = dawdle
        with world.connect() as scraper:
            scraper.sendall(b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n")
            assert begun.wait(5)
            world.server.stop()
            answer = received(scraper)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\nConnection: close\r\n" in answer


def test_stops_although_a_collector_hangs() -> None:
    release = threading.Event()
    begun = threading.Event()
    registry = CollectorRegistry()
    stacks = Stacks()
    registry.register(stacks)

    def hang() -> None:
        begun.set()
        release.wait(10)

    stacks.before = hang
    server = WebServer("127.0.0.1:0", registry, lambda: [], lambda: True, lambda: True)
    server.start()
    with socket.create_connection(server.address, timeout=5) as scraper:
        scraper.sendall(b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n")
        assert begun.wait(5)
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 1
        assert received(scraper) == b""
    release.set()


def test_stop_twice_and_without_start() -> None:
    server = WebServer("127.0.0.1:0", CollectorRegistry(), lambda: [], lambda: True, lambda: True)
    port = server.address[1]
    server.stop()
    server.stop()
    again = WebServer(
        f"127.0.0.1:{port}", CollectorRegistry(), lambda: [], lambda: True, lambda: True
    )
    again.stop()


def test_waits_without_waking(world: World) -> None:
    """An idle server must not use the processor."""
    world.get("/metrics").read()
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.01


# --- addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:10016", ("127.0.0.1", 10016)),
        ("[::1]:0", ("::1", 0)),
        ("localhost:80", ("localhost", 80)),
        (":10016", ("", 10016)),
        ("[fe80::1%lo]:1", ("fe80::1%lo", 1)),
    ],
)
def test_parse_address(text: str, address: tuple[str, int]) -> None:
    assert web.parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    ["", "10016", "host", "::1:80", "h:", "h:65536", "h:-1", "h:x", "a b:1", "[::1]", "h:1 "],
)
def test_no_address(text: str) -> None:
    with pytest.raises(UsageError, match="give HOST:PORT"):
        web.parse_address(text)


def listen(address: str) -> None:
    WebServer(address, CollectorRegistry(), lambda: [], lambda: True, lambda: True).stop()


@pytest.mark.parametrize("address", ["[::1]:0", "localhost:0", ":0", "[::]:0", "0.0.0.0:0"])
def test_addresses(address: str) -> None:
    if ":" in address[:2] and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    with serving(listen=address) as world:
        host, port = world.server.address
        reachable = "::1" if address == "[::1]:0" else "127.0.0.1"
        with socket.create_connection((reachable, port), timeout=5) as client:
            client.sendall(b"GET /-/ready HTTP/1.0\r\n\r\n")
            assert received(client).startswith(b"HTTP/1.1 200 ")
        assert world.server.url == f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_port_in_use(world: World) -> None:
    with pytest.raises(UsageError, match=f"^can't listen on .*:{world.port}: the port is in use$"):
        listen(f"127.0.0.1:{world.port}")


def test_no_such_address_or_host() -> None:
    with pytest.raises(UsageError, match="no such address on this host"):
        listen("192.0.2.1:0")
    with pytest.raises(UsageError, match=r"can't listen on no-such-host\.invalid:0: "):
        listen("no-such-host.invalid:0")


def test_no_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(host: str, port: int) -> socket.socket:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(web, "_bind", refuse)
    with pytest.raises(UsageError, match=r"can't listen on :80: no permission for this port"):
        listen(":80")
