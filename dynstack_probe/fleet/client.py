# SPDX-License-Identifier: GPL-2.0-or-later
"""A client for Prometheus' HTTP API, robust against slow, huge and invalid responses.

The request runs in a thread, and the caller waits for it up to the timeout: that bounds the
DNS lookup, the handshake and a slow-drip response, which socket timeouts do not. Redirects
are not followed, since they would leak credentials.
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
# 1.3 kB per host with --by host: enough for 100,000 hosts, some 1 GB once parsed
MAX_ANSWER_BYTES = 128 << 20
CHUNK_BYTES = 64 * 1024
# of a server's error message
MAX_ERROR_CHARACTERS = 160
# x509_vfy.h, X509_V_ERR_PATHLEN_INVALID_FOR_NON_CA to EC_KEY_EXPLICIT_PARAMS: what OpenSSL finds
# only with X509_V_FLAG_X509_STRICT, which Python sets from 3.13 on
STRICT_CODES = range(80, 95)
# far beyond any real byte count; floats are exact up to 9 PB
MAX_FIGURE = 2.0**63

_T = TypeVar("_T")


class Series(NamedTuple):
    """One element of an instant vector, at server time `at` (Unix, seconds)."""

    labels: Mapping[str, str]
    value: float
    at: float


def is_valid(value: float) -> bool:
    return 0 <= value < MAX_FIGURE  # excludes NaN


@dataclass(frozen=True)
class Answer:
    """An instant vector, and the server's warnings, such as missing stores."""

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
    """A Prometheus server or a compatible one: Thanos, Mimir, VictoriaMetrics."""

    def __init__(self, access: Access, timeout_seconds: float) -> None:
        self.url = access.url
        self._access = access
        self._timeout_seconds = timeout_seconds

    def query(self, expression: str) -> Answer:
        """An instant query. Raises ProbeError, one line, if it fails."""
        started = time.monotonic()
        series, warnings, size_bytes = self._ask({"query": expression}, "vector", _series)
        return Answer(series, warnings, size_bytes, time.monotonic() - started)

    def query_as_of(
        self, expression: str, at: float, parse: Callable[[dict[str, Any]], _T]
    ) -> tuple[list[_T], list[str]]:
        """The series of a range vector at a Unix time, parsed by `parse`; the warnings.

        `parse` may raise any of Python's usual errors on malformed series. Raises ProbeError,
        one line, for these and if the query fails.
        """
        parameters = {"query": expression, "time": f"{at:.3f}"}
        series, warnings, _ = self._ask(parameters, "matrix", parse)
        return series, warnings

    def _ask(
        self,
        parameters: Mapping[str, str],
        kind: str,
        parse: Callable[[dict[str, Any]], _T],
    ) -> tuple[list[_T], list[str], int]:
        """The parsed series, the warnings, and the response's size in bytes."""
        # so that the server stops when we do
        timeout = f"{math.ceil(self._timeout_seconds)}s"
        body = urllib.parse.urlencode({**parameters, "timeout": timeout}).encode("ascii")
        reply = self._post(body)
        if reply.status != HTTPStatus.OK:
            self._raise_for_status(reply)
        try:
            document = json.loads(reply.body)
            data = document["data"]
            if document["status"] != "success" or data["resultType"] != kind:
                raise ValueError
            found = [parse(series) for series in data["result"]]
            return found, _warnings(document), len(reply.body)
        except (OverflowError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            kind = _short(reply.content_type.partition(";")[0]) or "no type"
            raise ProbeError(
                f"{self.url} does not answer like Prometheus ({kind},"
                f" {len(reply.body)} bytes): is it a Prometheus server?"
            ) from None

    def _post(self, body: bytes) -> _Reply:
        outcome: queue.SimpleQueue[_Reply | Exception] = queue.SimpleQueue()

        def work() -> None:
            try:
                outcome.put(self._exchange(body))
            except Exception as error:  # passed on to the caller
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
        """One request and its response. Raises OSError, HTTPException, _TooLargeError."""
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

    def _raise_for_status(self, reply: _Reply) -> NoReturn:
        status, message = reply.status, _error_message(reply)
        because = f": {message}" if message else ""
        if status == HTTPStatus.UNAUTHORIZED:
            raise NotPermittedError(
                f"{self.url} requires authentication (401): --username and"
                " --password-file, or --bearer-token-file"
            )
        if status == HTTPStatus.FORBIDDEN:
            raise NotPermittedError(
                f"{self.url} denies this query (403){because}; is this user allowed to read?"
            )
        if status == HTTPStatus.NOT_FOUND:
            raise ProbeError(
                f"{self.url} has no {QUERY_PATH} (404): is it a Prometheus server's base URL?"
            )
        if 300 <= status < 400:
            where = _short(reply.location) or "nowhere"
            raise ProbeError(f"{self.url} redirects to {where}, unfollowed: use the final URL")
        if "HTTP request to an HTTPS server" in message:
            raise ProbeError(f"{self.url} speaks TLS: use https://")
        raise ProbeError(f"{self.url} returned an error ({status}){because}")


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
    """The rest of a message that begins with the URL; None for a bug of ours."""
    if isinstance(error, _TooLargeError):
        return f"returned more than {MAX_ANSWER_BYTES >> 20} MiB: use --by cpu, or a single --job"
    if isinstance(error, TimeoutError):
        return (
            f"did not answer within {timeout_seconds:g} s: is it up and reachable? A longer"
            " --timeout may help"
        )
    if isinstance(error, socket.gaierror):
        return f"can't be reached: can't resolve {access.host} ({error.strerror})"
    if isinstance(error, ConnectionRefusedError):
        return "can't be reached: connection refused; is Prometheus running there?"
    if access.scheme == "https":
        import ssl

        if isinstance(error, ssl.SSLCertVerificationError):
            if error.verify_code in STRICT_CODES:
                return (
                    f"is not trusted: {printable(error.verify_message)}, as RFC 5280 requires and"
                    " Python 3.13 and later check: reissue the offending certificate"
                    " (for a CA: keyUsage=critical,keyCertSign)"
                )
            return (
                f"is not trusted: {printable(error.verify_message)}; --ca-file sets the CA to trust"
            )
        # TLS 1.3 rejects a client certificate after the handshake: a reset may precede the alert
        reset = isinstance(error, ConnectionResetError | BrokenPipeError)
        if isinstance(error, ssl.SSLEOFError) or (reset and access.cert_file is None):
            return "closes the TLS connection: does it need a client certificate (--cert-file)?"
        if isinstance(error, ssl.SSLError):
            return _tls_reason(error)
    if isinstance(error, http.client.HTTPException | ConnectionResetError | BrokenPipeError):
        return "closes the connection or does not speak HTTP: is it a Prometheus server?"
    if isinstance(error, OSError):
        return f"can't be queried: {(error.strerror or str(error)).lower()}"
    if isinstance(error, UnicodeError):  # not a valid host name
        return "can't be reached: invalid host name"
    return None


def _tls_reason(error: OSError) -> str:
    reason = str(getattr(error, "reason", None) or error.strerror or "unknown reason")
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
        return "does not speak TLS: use http://"
    if "CERTIFICATE_REQUIRED" in reason:
        return "needs a client certificate: --cert-file and --key-file"
    return f"failed the TLS handshake: {reason.lower().replace('_', ' ')}"


def _error_message(reply: _Reply) -> str:
    """The server's error message, from JSON or plain text."""
    try:
        return _short(json.loads(reply.body)["error"])
    except (ValueError, TypeError, KeyError, RecursionError):
        if "html" in reply.content_type:
            return ""
        return _short(reply.body[: 4 * MAX_ERROR_CHARACTERS].decode("utf-8", "replace"))


def _short(text: object) -> str:
    if not isinstance(text, str):
        return ""
    line = printable(" ".join(text.split()))
    return line if len(line) <= MAX_ERROR_CHARACTERS else f"{line[:MAX_ERROR_CHARACTERS]} ..."


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
