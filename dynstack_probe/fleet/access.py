# SPDX-License-Identifier: GPL-2.0-or-later
"""A Prometheus server's address and our credentials, validated before anything is sent."""

from __future__ import annotations

import base64
import os
import re
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dynstack_probe.errors import UsageError

if TYPE_CHECKING:
    import ssl

PASSWORD_VARIABLE = "DYNSTACK_PROMETHEUS_PASSWORD"
MAX_SECRET_BYTES = 64 * 1024
# RFC 9110, 5.6.2 and 5.5: no header injection
HEADER = re.compile(
    r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x21-\x7e]([\t\x20-\x7e]*[\x21-\x7e])?)"
)
TOKEN = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True)
class Access:
    """An address with its TLS files and headers. `headers` may contain secrets."""

    scheme: str
    host: str
    port: int
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    insecure: bool = False

    @property
    def url(self) -> str:
        """The base URL, with port and without a trailing slash."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"

    def tls_context(self) -> ssl.SSLContext:
        """Raises UsageError for a file that is unreadable or invalid."""
        import ssl

        context = ssl.create_default_context()
        if self.ca_file is not None:
            _load("--ca-file", self.ca_file, lambda: context.load_verify_locations(self.ca_file))
        if self.cert_file is not None:
            certificate, key = self.cert_file, self.key_file or self.cert_file
            _readable("--key-file", key)
            _load(
                "--cert-file",
                certificate,
                # an empty password: without one OpenSSL would prompt on the terminal
                lambda: context.load_cert_chain(certificate, key, password=""),
            )
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def parse_access(
    url: str,
    *,
    username: str | None = None,
    password_file: Path | None = None,
    bearer_token_file: Path | None = None,
    headers: Sequence[str] = (),
    ca_file: Path | None = None,
    cert_file: Path | None = None,
    key_file: Path | None = None,
    insecure: bool = False,
) -> Access:
    """Raises UsageError, one line, if an option is invalid."""
    scheme, host, port, path = _parse_url(url)
    if scheme == "http" and (ca_file or cert_file or key_file or insecure):
        raise UsageError(f"TLS options need https://, not {url}")
    if key_file and not cert_file:
        raise UsageError("--key-file needs --cert-file")
    if insecure and ca_file:
        raise UsageError("--insecure skips certificate verification: drop it or --ca-file")
    named = [_header(line) for line in headers]
    authorization = _authorization(username, password_file, bearer_token_file)
    if authorization:
        named.append(("Authorization", authorization))
    access = Access(scheme, host, port, path, tuple(named), ca_file, cert_file, key_file, insecure)
    if scheme == "https":
        access.tls_context()
    return access


def _parse_url(url: str) -> tuple[str, str, int, str]:
    invalid = f"{url!a} is not a Prometheus URL such as http://HOST:9090"
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError:
        raise UsageError(invalid) from None
    if parts.username is not None or parts.password is not None:
        # the URL is not shown: it would end up in a log
        raise UsageError("no passwords in the URL: use --username and --password-file")
    host = parts.hostname
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise UsageError(invalid)
    if not re.fullmatch(r"[!-~]+", url):
        raise UsageError(invalid)
    return (
        parts.scheme,
        host,
        port or (443 if parts.scheme == "https" else 80),
        parts.path.rstrip("/"),
    )


def _authorization(
    username: str | None, password_file: Path | None, bearer_token_file: Path | None
) -> str | None:
    """The header's value (RFC 7617, RFC 6750); None without credentials."""
    if bearer_token_file is not None:
        if username is not None or password_file is not None:
            raise UsageError("--bearer-token-file or --username, not both")
        token = _secret("--bearer-token-file", bearer_token_file)
        if not TOKEN.fullmatch(token):
            raise UsageError(f"--bearer-token-file: {bearer_token_file} does not contain a token")
        return f"Bearer {token}"
    if username is None:
        if password_file is not None:
            raise UsageError("--password-file needs --username")
        return None
    if ":" in username:
        raise UsageError("--username: must not contain a colon")
    if password_file is not None:
        password = _secret("--password-file", password_file)
    elif PASSWORD_VARIABLE in os.environ:
        password = os.environ[PASSWORD_VARIABLE]
    else:
        raise UsageError(
            f"--username needs --password-file, or {PASSWORD_VARIABLE} in the environment"
        )
    pair = f"{username}:{password}".encode(errors="surrogateescape")
    return "Basic " + base64.b64encode(pair).decode("ascii")


def _header(line: str) -> tuple[str, str]:
    match = HEADER.fullmatch(line)
    if match is None:
        raise UsageError("--header: must be 'Name: value', such as 'X-Scope-OrgID: team'")
    if match[1].lower() in ("authorization", "host", "content-length", "transfer-encoding"):
        raise UsageError(f"--header: {match[1]} is set by other options")
    return match[1], match[2]


def _secret(option: str, path: Path) -> str:
    content = _readable(option, path)
    try:
        return content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise UsageError(f"{option}: {path} is not text") from None


def _readable(option: str, path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_SECRET_BYTES)
    except OSError as error:
        raise UsageError(f"{option}: can't read {path}: {error.strerror}") from error


def _load(option: str, path: Path, load: Callable[[], object]) -> None:
    import ssl

    _readable(option, path)
    try:
        load()
    except ssl.SSLError as error:
        reason = (error.reason or "no certificate found").lower().replace("_", " ")
        raise UsageError(f"{option}: {path} can't be used: {reason}") from error
