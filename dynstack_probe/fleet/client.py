# SPDX-License-Identifier: GPL-2.0-or-later
"""Prometheus' HTTP API, asked so that no answer can hang, flood or mislead us.

One thread does the request, and who asked waits for it no longer than the timeout: that
bounds looking up the name, the handshake and an answer that drips, which no timeout of a
socket does. No redirect is followed, since it would carry passwords elsewhere.
"""

from __future__ import annotations

import http.client
import json
import math
import queue
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, NamedTuple, NoReturn, TypeVar

from dynstack_probe import __version__
from dynstack_probe.errors import NotPermittedError, ProbeError
from dynstack_probe.fleet.access import Access
from dynstack_probe.text import printable

QUERY_PATH = "/api/v1/query"
# by host the answer takes 1.3 kB each: this is 100,000 hosts, and some 1 GB once parsed
MAX_ANSWER_BYTES = 128 << 20
CHUNK_BYTES = 64 * 1024
# of what a server says about an error
MAX_SAID_CHARACTERS = 160
# x509_vfy.h, X509_V_ERR_PATHLEN_INVALID_FOR_NON_CA to EC_KEY_EXPLICIT_PARAMS: what OpenSSL finds
# only with X509_V_FLAG_X509_STRICT, which Python sets from 3.13 on
STRICT_CODES = range(80, 95)
# more than the bytes of all computers, and exact as a float up to 9 PB
MAX_FIGURE = 2.0**63

_T = TypeVar("_T")


class Series(NamedTuple):
    """One element of an instant vector, at the server's time `at` (Unix, seconds)."""

    labels: Mapping[str, str]
    value: float
    at: float


def is_sensible(value: float) -> bool:
    return 0 <= value < MAX_FIGURE  # and so no NaN


@dataclass(frozen=True)
class Answer:
    """An instant vector, and what the server warned of, such as stores that are missing."""

    series: list[Series]
    warnings: list[str]
    size_bytes: int
    seconds: float


class _Reply(NamedTuple):
    status: int
    content_type: str
    location: str
    body: bytes


class _TooLargeError(Exception):
    pass


class Server:
    """A Prometheus, or what speaks its API: Thanos, Mimir, VictoriaMetrics."""

    def __init__(self, access: Access, timeout_seconds: float) -> None:
        self.url = access.url
        self._access = access
        self._timeout_seconds = timeout_seconds

    def query(self, expression: str) -> Answer:
        """An instant query. Raises ProbeError, in one line, for whatever goes wrong."""
        started = time.monotonic()
        series, warnings, size_bytes = self._ask({"query": expression}, "vector", _series)
        return Answer(series, warnings, size_bytes, time.monotonic() - started)

    def query_as_of(
        self, expression: str, at: float, understand: Callable[[dict[str, Any]], _T]
    ) -> tuple[list[_T], list[str]]:
        """What `understand` makes of each series of a matrix as of a Unix time; the warnings.

        It raises what a series of another shape makes Python raise; this ProbeError, in
        one line, for that and for whatever else goes wrong.
        """
        parameters = {"query": expression, "time": f"{at:.3f}"}
        series, warnings, _ = self._ask(parameters, "matrix", understand)
        return series, warnings

    def _ask(
        self,
        parameters: Mapping[str, str],
        kind: str,
        understand: Callable[[dict[str, Any]], _T],
    ) -> tuple[list[_T], list[str], int]:
        """What is made of each series of the answer, its warnings, and its size in bytes."""
        # the server should not go on for longer than we wait
        timeout = f"{math.ceil(self._timeout_seconds)}s"
        body = urllib.parse.urlencode({**parameters, "timeout": timeout}).encode("ascii")
        reply = self._post(body)
        if reply.status != HTTPStatus.OK:
            self._refuse(reply)
        try:
            document = json.loads(reply.body)
            data = document["data"]
            if document["status"] != "success" or data["resultType"] != kind:
                raise ValueError
            found = [understand(series) for series in data["result"]]
            return found, _warnings(document), len(reply.body)
        except (OverflowError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            kind = _short(reply.content_type.partition(";")[0]) or "no type"
            raise ProbeError(
                f"{self.url} answers nothing that Prometheus would ({kind},"
                f" {len(reply.body)} bytes): is it a Prometheus?"
            ) from None

    def _post(self, body: bytes) -> _Reply:
        outcome: queue.SimpleQueue[_Reply | Exception] = queue.SimpleQueue()

        def work() -> None:
            try:
                outcome.put(self._exchange(body))
            except Exception as error:  # handed over, not lost in a thread
                outcome.put(error)

        threading.Thread(target=work, daemon=True).start()
        try:
            result = outcome.get(timeout=self._timeout_seconds)
        except queue.Empty:
            result = TimeoutError()
        if isinstance(result, Exception):
            reason = _reason(result, self._access, self._timeout_seconds)
            raise result if reason is None else ProbeError(f"{self.url} {reason}") from result
        return result

    def _exchange(self, body: bytes) -> _Reply:
        """One request and the whole answer. Raises OSError, HTTPException, _TooLargeError."""
        connection = self._connection()
        try:
            headers = {
                "Accept": "application/json",
                "Content-Type": "application/x-www-form-urlencoded",
                "User-Agent": f"dynstack-probe/{__version__}",
                "Connection": "close",
                **dict(self._access.headers),
            }
            connection.request("POST", self._access.path + QUERY_PATH, body, headers)
            with connection.getresponse() as response:
                return _Reply(
                    response.status,
                    response.getheader("Content-Type", ""),
                    response.getheader("Location", ""),
                    _read(response),
                )
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        access = self._access
        if access.scheme == "https":
            return http.client.HTTPSConnection(
                access.host,
                access.port,
                timeout=self._timeout_seconds,
                context=access.tls_context(),
            )
        return http.client.HTTPConnection(access.host, access.port, timeout=self._timeout_seconds)

    def _refuse(self, reply: _Reply) -> NoReturn:
        status, said = reply.status, _said(reply)
        because = f": {said}" if said else ""
        if status == HTTPStatus.UNAUTHORIZED:
            raise NotPermittedError(
                f"{self.url} lets nobody in without the right password (401): --username and"
                " --password-file, or --bearer-token-file"
            )
        if status == HTTPStatus.FORBIDDEN:
            raise NotPermittedError(
                f"{self.url} refuses this query (403){because}; may this user read it?"
            )
        if status == HTTPStatus.NOT_FOUND:
            raise ProbeError(
                f"{self.url} has no {QUERY_PATH} (404): is it a Prometheus, and its path right?"
            )
        if 300 <= status < 400:
            where = _short(reply.location) or "nowhere"
            raise ProbeError(f"{self.url} redirects to {where}, unfollowed: give the final address")
        if "HTTP request to an HTTPS server" in said:
            raise ProbeError(f"{self.url} speaks TLS: use https://")
        raise ProbeError(f"{self.url} answers with an error ({status}){because}")


def _read(response: http.client.HTTPResponse) -> bytes:
    body = bytearray()
    while chunk := response.read1(CHUNK_BYTES):
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise _TooLargeError
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)
    return bytes(body)


def _reason(error: Exception, access: Access, timeout_seconds: float) -> str | None:
    """The end of a sentence that begins with the URL; None for what is our own mistake."""
    if isinstance(error, _TooLargeError):
        return (
            f"answers with more than {MAX_ANSWER_BYTES >> 20} MiB: ask --by cpu, or for one --job"
        )
    if isinstance(error, TimeoutError):
        return (
            f"did not answer within {timeout_seconds:g} s: is it up and reachable? A longer"
            " --timeout may help"
        )
    if isinstance(error, socket.gaierror):
        return f"can't be reached: no address is known for {access.host} ({error.strerror})"
    if isinstance(error, ConnectionRefusedError):
        return "does not answer: connection refused; is Prometheus running there?"
    if access.scheme == "https":
        import ssl

        if isinstance(error, ssl.SSLCertVerificationError):
            if error.verify_code in STRICT_CODES:
                return (
                    f"is not trusted: {printable(error.verify_message)}, as RFC 5280 demands and"
                    " Python 3.13 and later check: a certificate of the chain must be issued anew"
                    " (for an authority: keyUsage=critical,keyCertSign)"
                )
            return (
                f"is not trusted: {printable(error.verify_message)}; --ca-file names whose"
                " certificates are good"
            )
        # TLS 1.3 refuses a client after its first words, so that a reset may come before the alert
        reset = isinstance(error, ConnectionResetError | BrokenPipeError)
        if isinstance(error, ssl.SSLEOFError) or (reset and access.cert_file is None):
            return "breaks TLS off: does it want a client's certificate (--cert-file)?"
        if isinstance(error, ssl.SSLError):
            return _tls_reason(error)
    if isinstance(error, http.client.HTTPException | ConnectionResetError | BrokenPipeError):
        return "breaks off or speaks no HTTP: is it a Prometheus?"
    if isinstance(error, OSError):
        return f"does not answer: {(error.strerror or str(error)).lower()}"
    if isinstance(error, UnicodeError):  # a host name that can't be one
        return "can't be reached: no such host name"
    return None


def _tls_reason(error: OSError) -> str:
    reason = str(getattr(error, "reason", None) or error.strerror or "the handshake failed")
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
        return "speaks no TLS: use http://"
    if "CERTIFICATE_REQUIRED" in reason:
        return "wants a client's certificate: --cert-file and --key-file"
    return f"refuses TLS: {reason.lower().replace('_', ' ')}"


def _said(reply: _Reply) -> str:
    """What the server gave as the reason of an error: in JSON, or in a line of text."""
    try:
        return _short(json.loads(reply.body)["error"])
    except (ValueError, TypeError, KeyError, RecursionError):
        if "html" in reply.content_type:
            return ""
        return _short(reply.body[: 4 * MAX_SAID_CHARACTERS].decode("utf-8", "replace"))


def _short(text: object) -> str:
    if not isinstance(text, str):
        return ""
    line = printable(" ".join(text.split()))
    return line if len(line) <= MAX_SAID_CHARACTERS else f"{line[:MAX_SAID_CHARACTERS]} ..."


def _series(element: dict[str, Any]) -> Series:
    labels, value = element["metric"], element["value"]
    if not isinstance(labels, dict) or not all(isinstance(v, str) for v in labels.values()):
        raise TypeError
    at, figure = value
    if not isinstance(at, int | float) or not isinstance(figure, str):
        raise TypeError
    return Series(labels, float(figure), float(at))


def _warnings(document: dict[str, Any]) -> list[str]:
    warnings = document.get("warnings") or []
    return [_short(line) for line in warnings] if isinstance(warnings, list) else []
