# SPDX-License-Identifier: GPL-2.0-or-later
"""--web.config.file: TLS, client certificates, passwords, headers.

In the format of Prometheus exporters:
https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md
A setting that we or Python's ssl can't enforce is rejected by name, never silently ignored:
`rate_limit`, `http2: true`, the client_auth_types that request a certificate without
verifying it, TLS below 1.2, a choice of TLS 1.3 cipher suites, and more than one curve.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynstack_probe.errors import UsageError
from dynstack_probe.httpd.checked import Key, about, check, load_yaml, refuse
from dynstack_probe.httpd.passwords import Users
from dynstack_probe.text import tell

if TYPE_CHECKING:
    import ssl

    from dynstack_probe.httpd.tls import Tls

BCRYPT_HASH = re.compile(r"\$2[aby]\$(0[4-9]|[12]\d|3[01])\$([./A-Za-z0-9]{53})")

TLS_SECTION = "tls_server_config"
# TLS 1.2 suites: Go's names (tls.CipherSuites()) and OpenSSL's
CIPHER_SUITES = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
}
CURVES = {
    "CurveP256": "prime256v1",
    "CurveP384": "secp384r1",
    "CurveP521": "secp521r1",
    "X25519": "X25519",
}
# and ssl.TLSVersion's
VERSIONS = {"TLS12": "TLSv1_2", "TLS13": "TLSv1_3"}
# and ssl.VerifyMode's
CLIENT_AUTH_TYPES = {
    "NoClientCert": "CERT_NONE",
    "VerifyClientCertIfGiven": "CERT_OPTIONAL",
    "RequireAndVerifyClientCert": "CERT_REQUIRED",
}
PEMS = ("cert", "key", "client_ca")

ROOT = {
    "tls_server_config": Key(dict, None),
    "http_server_config": Key(dict, None),
    "basic_auth_users": Key(dict, None),
    "rate_limit": Key(unsupported="not supported; remove it"),
}
HTTP = {
    "http2": Key(bool, False, (), "", {True: "HTTP/2 is not supported; remove it or use false"}),
    "headers": Key(dict, None),
}
HEADERS = {
    "Content-Security-Policy": Key(),
    "Strict-Transport-Security": Key(),
    "X-Content-Type-Options": Key(choices=("nosniff",)),
    "X-Frame-Options": Key(choices=("deny", "sameorigin")),
    "X-XSS-Protection": Key(),
}
_CHOOSE = "{} is unknown; choose one of {}"
_OLD_VERSIONS = dict.fromkeys(("TLS10", "TLS11"), "{} is not supported; TLS12 and TLS13 are")
_UNCHECKED = (
    "{} does not verify the certificate and is not supported; RequireAndVerifyClientCert does"
)
# RequireClientCert is exporter-toolkit's older name for RequireAnyClientCert
_UNCHECKED_TYPES = ("RequestClientCert", "RequireAnyClientCert", "RequireClientCert")
_TLS13_SUITES = ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"]
_NO_CHOICE = dict.fromkeys(_TLS13_SUITES, "{} is a TLS 1.3 suite, and these can't be configured")
TLS = {
    **{name: Key() for pem in PEMS for name in (pem, f"{pem}_file")},
    "client_auth_type": Key(
        *(str, "NoClientCert", CLIENT_AUTH_TYPES, _CHOOSE),
        refused=dict.fromkeys(_UNCHECKED_TYPES, _UNCHECKED),
    ),
    "client_allowed_sans": Key(list, None),
    "min_version": Key(str, "TLS12", VERSIONS, _CHOOSE, _OLD_VERSIONS),
    "max_version": Key(str, "TLS13", VERSIONS, _CHOOSE, _OLD_VERSIONS),
    "cipher_suites": Key(list, (), CIPHER_SUITES, "{} is unknown or insecure", _NO_CHOICE),
    "prefer_server_cipher_suites": Key(bool, True),
    "curve_preferences": Key(list, (), CURVES),
}


def _tls_rules(t: Mapping[str, Any]) -> tuple[tuple[str, object, str], ...]:
    """Constraints between keys: the key, whether it is invalid, and why."""
    certificate, key, client_ca = (t[pem] or t[f"{pem}_file"] for pem in PEMS)
    auth, sans = t["client_auth_type"], t["client_allowed_sans"]
    low, high = t["min_version"], t["max_version"]
    verifies = auth != "NoClientCert"
    both = ((n, t[n] and t[f"{n}_file"], f"set this or {n}_file, not both") for n in PEMS)
    return (
        *both,
        ("cert_file", not certificate, "missing"),
        ("key_file", not key, "missing"),
        ("client_auth_type", client_ca and not verifies, "missing, though there is a client CA"),
        ("client_ca_file", verifies and not client_ca, f"missing, and {auth} needs it"),
        ("client_allowed_sans", sans == [], "is empty, so that no client could connect"),
        (
            "client_allowed_sans",
            sans and not verifies,
            "needs a client_auth_type that verifies certificates",
        ),
        ("min_version", low > high, f"{low} is above max_version {high}"),
        (
            "cipher_suites",
            t["cipher_suites"] and low == "TLS13",
            "has no effect with min_version TLS13; remove it",
        ),
        (
            "curve_preferences",
            len(t["curve_preferences"]) > 1,
            "more than one curve is not supported",
        ),
    )


class WebConfig:
    """The last valid configuration.

    Certificates, keys and CAs that change on disk are reloaded at the next connection; the
    file itself only by `reload()`, so that a half-saved one never weakens security.
    """

    def __init__(self, path: Path, log: Callable[[str], None] = tell) -> None:
        """Raises UsageError, one line with file and key, if the file is invalid."""
        self.path = path
        self._log = log
        self._lock = threading.Lock()
        self._settings = _read(path)

    def reload(self) -> None:
        """Reload the file, certificates included.

        Raises UsageError, and keeps the old configuration, if the new one is invalid or turns
        TLS on or off, which would change the URL's scheme.
        """
        fresh = _read(self.path)
        with self._lock:
            if (fresh.tls is None) != (self._settings.tls is None):
                raise UsageError(
                    f"{self.path}: tls_server_config: turning TLS on or off needs a restart"
                )
            self._settings = fresh

    @property
    def uses_tls(self) -> bool:
        """Whether connections use TLS."""
        return self._settings.tls is not None

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers for every response; an empty value suppresses the header."""
        return self._settings.headers

    def tls_context(self) -> ssl.SSLContext | None:
        """For the next connection; None without TLS.

        If a changed file can't be used, the last valid certificate stays in use, and the
        reason is logged once.
        """
        with self._lock:
            tls = self._settings.tls
            if tls is None:
                return None
            try:
                with about(self.path):
                    tls.refresh()
            except UsageError as error:
                self._log(f"{error}; the previous certificate stays in use")
            return tls.context

    def accepts_client(self, certificate: Mapping[str, Any] | None) -> bool:
        """Whether client_allowed_sans permits this peer. certificate: SSLSocket.getpeercert().

        A client without a certificate has passed the handshake, so client_auth_type permits it.
        """
        tls = self._settings.tls
        return tls is None or not certificate or tls.allows(certificate)

    def needs_bcrypt(self, authorization: str | None) -> bool:
        """Whether `permits()` would run bcrypt, which takes some 100 ms of CPU time."""
        return self._settings.users.cached_verdict(authorization) is None

    def permits(self, authorization: str | None) -> bool:
        """Whether this Authorization header (None: absent) gives access."""
        users = self._settings.users
        verdict = users.cached_verdict(authorization)
        return users.check_password(authorization) if verdict is None else verdict


@dataclass(frozen=True)
class _Settings:
    tls: Tls | None
    headers: Mapping[str, str]
    users: Users


def _read(path: Path) -> _Settings:
    with about(path):
        root = check("", load_yaml(path), ROOT)
        http = check("http_server_config", root["http_server_config"], HTTP)
        headers = check("http_server_config.headers", http["headers"], HEADERS)
        tls = _read_tls(path.parent, root["tls_server_config"])
        return _Settings(
            tls,
            {name: _one_line(name, headers[name]) for name in http["headers"] or ()},
            _read_users(check("basic_auth_users", root["basic_auth_users"], None)),
        )


def _read_tls(folder: Path, content: Mapping[str, Any] | None) -> Tls | None:
    if not content:
        return None
    from dynstack_probe.httpd.tls import Tls  # imports OpenSSL

    values = check(TLS_SECTION, content, TLS)
    for key, is_wrong, why in _tls_rules(values):
        if is_wrong:
            refuse(f"{TLS_SECTION}.{key}", why)
    return Tls(folder, values)


def _one_line(header: str, value: str) -> str:
    if value and not (value.isascii() and value.isprintable()):
        refuse(f"http_server_config.headers.{header}", "must be a single line of printable ASCII")
    return value


def _read_users(hashes: Mapping[str, str]) -> Users:
    for user, hash_ in hashes.items():
        key, match = f"basic_auth_users.{user}", BCRYPT_HASH.fullmatch(hash_)
        if ":" in user:
            refuse(key, "a user name can't contain a colon")
        if match is None:
            refuse(key, "not a bcrypt hash; create one with `htpasswd -nBC 10 NAME`")
        try:
            import bcrypt

            bcrypt.checkpw(b"", f"$2b$04${match[2]}".encode())  # at the lowest cost
        except ImportError:
            refuse(
                "basic_auth_users",
                "the bcrypt package is missing; apt install python3-bcrypt, or"
                " pip install dynstack-probe[auth]",
            )
        except ValueError as error:
            refuse(key, f"not a bcrypt hash: {error}")
    return Users({user.encode(): hash_.encode() for user, hash_ in hashes.items()})
