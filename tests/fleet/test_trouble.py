# SPDX-License-Identifier: GPL-2.0-or-later
"""A server in trouble, or none at all: one clear line, and the right exit code."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dynstack_probe.fleet import client
from tests.fleet.stub import (
    JSON,
    Reply,
    Request,
    Result,
    answering,
    drip,
    fleet,
    make_certificate,
    make_lax_chain,
    raw,
    vector,
)
from tests.tools import needs
from tests.trouble import complains

Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return lambda *arguments: fleet(monkeypatch, capsys, *arguments)


def test_nobody_listens(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
    complains(run("--prometheus", url), 1, "can't be reached: connection refused; is Prometheus")


def test_no_such_host(run: Run) -> None:
    complains(run("--prometheus", "http://nowhere.invalid"), 1, "can't resolve nowhere")
    complains(run("--prometheus", f"http://{'a' * 70}.invalid"), 1, "can't be reached")


@pytest.mark.parametrize(
    "url",
    ["", "nonsense", "ftp://x", "http://", "http://x:y", "http://x:99999", "http://[::1",
     "http://x/?a=b", "http://x/#a", "http://x/a\x1bb", "//x:9090", "localhost:9090"],
)  # fmt: skip
def test_no_address_at_all(run: Run, url: str) -> None:
    complains(run("--prometheus", url), 2, "not a Prometheus URL such as")


def test_no_password_in_the_url(run: Run) -> None:
    result = run("--prometheus", "http://me:geheim@x")
    complains(result, 2, "--password-file")
    assert "geheim" not in result.stderr


@pytest.mark.parametrize("talk", [lambda connection: time.sleep(2), drip])
def test_too_slow(run: Run, talk: Callable[[socket.socket], None]) -> None:
    with raw(talk) as url:
        started = time.monotonic()
        complains(run("--prometheus", url, "--timeout", "0.3"), 1, "not answer within 0.3 s")
        assert time.monotonic() - started < 1.5


@pytest.mark.parametrize(
    "said",
    [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200, b"\x00" * 70000,
     b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"],
)  # fmt: skip
def test_no_http(run: Run, said: bytes) -> None:
    def talk(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(said)

    with raw(talk) as url:
        complains(run("--prometheus", url), 1, "closes the connection or does not speak HTTP")


def the_error(message: str) -> bytes:
    return json.dumps({"status": "error", "errorType": "x", "error": message}).encode()


@pytest.mark.parametrize(
    ("reply", "code", "about"),
    [
        ((401, {}, b"Unauthorized\n"), 4, r"requires authentication \(401\): --username"),
        ((403, {}, b"tenant\x1b[31m unknown"), 4, r"denies this query \(403\): tenant\\x1b\[31m"),
        ((404, {"Content-Type": "text/html"}, b"<html>"), 1, r"has no /api/v1/query \(404\)"),
        ((302, {"Location": "http://evil/\x1b"}, b""), 1, r"redirects to http://evil/.*final"),
        ((307, {}, b""), 1, "redirects to nowhere"),
        ((400, JSON, the_error("parse\nerror")), 1, r"an error \(400\): parse error$"),
        ((400, {}, b"Client sent an HTTP request to an HTTPS server.\n"), 1, "use https://"),
        ((422, JSON, the_error("x" * 999)), 1, r"\(422\): x{160} \.\.\.$"),
        ((500, {"Content-Type": "text/html"}, b"<html>no"), 1, r"an error \(500\)$"),
        ((503, JSON, the_error("query timed out")), 1, "query timed out"),
        ((503, JSON, b"[" * 100_000), 1, r"\(503\)"),
        ((204, {}, b""), 1, r"\(204\)"),
        ((200, {"Content-Type": "text/html"}, b"<html>"), 1, r"not answer .* \(text/html, 6"),
        ((200, JSON, b'{"status": "success", "da'), 1, "not answer like Prometheus"),
        ((200, JSON | {"X-Claim": "99"}, b"{}"), 1, "closes the connection"),
        ((200, JSON, b"[" * 1_000_000), 1, "not answer like Prometheus"),
        ((200, JSON, b'{"a":' * 100_000), 1, "not answer like Prometheus"),
        ((200, JSON, b"9" * 100_000), 1, "not answer like Prometheus"),
        ((200, JSON, b"\xff\xfe\x00"), 1, "not answer like Prometheus"),
        ((200, JSON, b"[]"), 1, "not answer like Prometheus"),
        ((200, JSON, b"null"), 1, "not answer like Prometheus"),
        ((200, JSON, b'{"status": "success", "data": []}'), 1, "not answer like Prometheus"),
        ((200, JSON, b'{"status": "error", "data": {}}'), 1, "not answer like Prometheus"),
    ],
)  # fmt: skip
def test_bad_answers(run: Run, reply: Reply, code: int, about: str) -> None:
    reply = (reply[0], {k: v.replace("\x1b", "") for k, v in reply[1].items()}, reply[2])
    with answering(lambda request: reply) as stub:
        complains(run("--prometheus", stub.url), code, about)


@pytest.mark.parametrize(
    "data",
    [
        {"resultType": "matrix", "result": []},
        {"resultType": "vector", "result": None},
        {"resultType": "vector", "result": {"a": 1}},
        {"resultType": "vector", "result": [7]},
        {"resultType": "vector", "result": [{"metric": {}}]},
        {"resultType": "vector", "result": [{"metric": [], "value": [1, "2"]}]},
        {"resultType": "vector", "result": [{"metric": {"a": 1}, "value": [1, "2"]}]},
        {"resultType": "vector", "result": [{"metric": {}, "value": [1, 2]}]},
        {"resultType": "vector", "result": [{"metric": {}, "value": [1]}]},
        {"resultType": "vector", "result": [{"metric": {}, "value": ["1", "2"]}]},
        {"resultType": "vector", "result": [{"metric": {}, "value": [1, "many"]}]},
        {"resultType": "vector", "result": [{"metric": {}, "value": [10**400, "1"]}]},
    ],
)
def test_answers_of_another_shape(run: Run, data: object) -> None:
    body = json.dumps({"status": "success", "data": data}).encode()
    with answering(lambda request: (200, JSON, body)) as stub:
        complains(run("--prometheus", stub.url), 1, "not answer like Prometheus")


def test_an_endless_answer(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_ANSWER_BYTES", 1 << 20)
    body = b" " * (2 << 20)
    with answering(lambda request: (200, JSON, body)) as stub:
        complains(run("--prometheus", stub.url), 1, "more than 1 MiB: use --by cpu")


def test_no_redirect_gets_the_password(run: Run, tmp_path: Path) -> None:
    (tmp_path / "p").write_text("geheim\n")
    with answering(lambda request: vector()) as elsewhere:
        with answering(lambda request: (307, {"Location": elsewhere.url}, b"")) as stub:
            login = ("--username", "me", "--password-file", str(tmp_path / "p"))
            complains(run("--prometheus", stub.url, *login), 1, "redirects to")
        assert not elsewhere.requests


def nothing_known(request: Request) -> Reply:
    return vector()


def test_no_such_metrics(run: Run) -> None:
    with answering(nothing_known) as stub:
        complains(run("--prometheus", stub.url), 1, "has no dynstack metrics: does it scrape")
        complains(run("--prometheus", stub.url, "--job", "a\nb"), 1, r"of job 'a\\nb'")
        assert 'up{job="a\\nb"}' in stub.requests[1].query


def test_all_hosts_are_down(run: Run) -> None:
    with answering(lambda request: vector(({"dynstack_figure": "asked"}, "9"))) as stub:
        complains(run("--prometheus", stub.url), 1, "scrapes 9 hosts, but none has a sample")


def test_nobody_has_that_policy(run: Run) -> None:
    def answer(request: Request) -> Reply:
        if "answered" in request.query:
            return vector(({"dynstack_figure": "answered"}, "3"))
        if request.query.startswith("group by (policy)"):
            return vector(({"policy": "rfc-v1"}, "1"), ({"policy": "x\x1b"}, "1"))
        return vector()

    with answering(answer) as stub:
        result = run("--prometheus", stub.url, "--policy", "nope")
        complains(result, 1, r"policy 'nope'; available: rfc-v1, x\\x1b \(")


def test_invalid_sums(run: Run) -> None:
    for value in ("NaN", "+Inf", "-1", "1e300"):

        def answer(request: Request, value: str = value) -> Reply:
            return vector(
                ({"dynstack_figure": "answered"}, "3"),
                ({"dynstack_figure": "base", "cpu_model": "x"}, value),
            )

        with answering(answer) as stub:
            complains(run("--prometheus", stub.url), 1, "missing or invalid: --by host")


def test_login(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DYNSTACK_PROMETHEUS_PASSWORD", raising=False)
    secret = tmp_path / "secret"
    secret.write_text("gehéim:x\n")

    def sent(*options: str) -> str:
        with answering(nothing_known) as stub:
            assert run("--prometheus", stub.url, *options).returncode == 1
            assert stub.requests[0].headers["X-Scope-OrgID"] is None or "team" in options[-1]
            value: str = stub.requests[0].headers["Authorization"]
            return value

    expected = "Basic " + base64.b64encode("me:gehéim:x".encode()).decode()
    assert sent("--username", "me", "--password-file", str(secret)) == expected
    monkeypatch.setenv("DYNSTACK_PROMETHEUS_PASSWORD", "gehéim:x")
    assert sent("--username", "me", "--header", "X-Scope-OrgID: team") == expected
    assert sent() is None
    secret.write_text("abc.def\n")
    assert sent("--bearer-token-file", str(secret)) == "Bearer abc.def"


def test_wrong_options(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DYNSTACK_PROMETHEUS_PASSWORD", raising=False)
    broken = tmp_path / "broken"
    broken.write_bytes(b"two words\nand more")
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    none, tls = str(tmp_path / "none"), ("--prometheus", "https://127.0.0.1:1")
    for options, about in (
        (("--username", "me"), "needs --password-file, or DYNSTACK_PROMETHEUS_PASSWORD"),
        (("--username", "a:b", "--password-file", str(broken)), "colon"),
        (("--password-file", str(broken)), "needs --username"),
        (("--username", "me", "--password-file", none), "can't read .*No such file"),
        (("--username", "me", "--password-file", str(binary)), "is not text"),
        (("--bearer-token-file", str(broken)), "does not contain a token"),
        (("--bearer-token-file", str(broken), "--username", "me"), "not both"),
        (("--header", "nonsense"), "must be 'Name: value'"),
        (("--header", "A: b\r\nC: d"), "must be 'Name: value'"),
        (("--header", "host: x"), "set by other options"),
        (("--ca-file", str(broken)), "need https://, not http://"),
        (("--insecure",), "need https://, not http://"),
        ((*tls, "--ca-file", none), "--ca-file: can't read"),
        ((*tls, "--ca-file", str(broken)), "--ca-file: .*can't be used"),
        ((*tls, "--ca-file", str(tmp_path)), "--ca-file: can't read"),
        ((*tls, "--key-file", str(broken)), "needs --cert-file"),
        ((*tls, "--cert-file", str(broken)), "--cert-file: .*can't be used"),
        ((*tls, "--insecure", "--ca-file", str(broken)), "drop it or --ca-file"),
        (("--timeout", "nan"), "--timeout"),
        (("--timeout", "0"), "--timeout"),
        (("--by", "moon"), "moon"),
        (("--output", str(tmp_path)), "is a directory"),
    ):
        complains(run(*options), 2, about)


@needs("openssl", "openssl")
def test_tls(run: Run, tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with answering(nothing_known, context) as stub:
        complains(run("--prometheus", stub.url), 1, "not trusted: self-signed certificate; --ca-f")
        trusting = ("--prometheus", stub.url, "--ca-file", str(certificate))
        complains(run(*trusting), 1, "has no dynstack metrics")
        complains(run("--prometheus", stub.url, "--insecure"), 1, "has no dynstack metrics")
        complains(run("--prometheus", stub.url.replace("https", "http")), 1, "does not speak HTTP")
    with answering(nothing_known) as stub:
        complains(run("--prometheus", stub.url.replace("http", "https")), 1, "does not speak TLS")


@needs("openssl", "openssl")
def test_an_authority_too_lax_for_python_3_13(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also under an older Python, told to be as strict."""
    strict = ssl.create_default_context()
    strict.verify_flags |= ssl.VERIFY_X509_STRICT
    monkeypatch.setattr(ssl, "create_default_context", lambda: strict)
    certificate, key, authority = make_lax_chain(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with answering(nothing_known, context) as stub:
        trusting = ("--prometheus", stub.url, "--ca-file", str(authority))
        complains(run(*trusting), 1, "does not include key usage extension.*reissue the")


@needs("openssl", "openssl")
def test_a_client_certificate(run: Run, tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    with answering(nothing_known, context) as stub:
        trusting = ("--prometheus", stub.url, "--ca-file", str(certificate))
        complains(run(*trusting), 1, "needs? a client certificate")
        own = ("--cert-file", str(certificate), "--key-file", str(key))
        complains(run(*trusting, *own), 1, "has no dynstack metrics")


def test_the_path_of_a_proxy(run: Run) -> None:
    with answering(nothing_known) as stub:
        run("--prometheus", f"{stub.url}/prometheus/")
        assert stub.requests[0].path == "/prometheus/api/v1/query"
        assert stub.requests[0].form["timeout"] == ["10s"]
