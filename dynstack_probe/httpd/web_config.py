# SPDX-License-Identifier: GPL-2.0-or-later
"""The file of --web.config.file: TLS, client certificates, passwords, headers.

Its format is that of all Prometheus exporters:
https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md
Whatever the file asks for and Python's ssl can't do is refused with the key's name, never
ignored: a setting that is silently not in force is worse than none. Refused for that are
`rate_limit`, `http2: true`, the client_auth_types that ask for a certificate without
checking it, TLS below 1.2, a choice among TLS 1.3's cipher suites, and more than one curve.
"""

from __future__ import annotations

import binascii
import contextlib
import hmac
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from dynstack_probe.errors import UsageError
from dynstack_probe.text import say

if TYPE_CHECKING:
    import ssl

# crypto/tls's names of TLS 1.2 suites (tls.CipherSuites()) and OpenSSL's
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
TLS13_CIPHER_SUITES = (
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
)
CURVES = {
    "CurveP256": "prime256v1",
    "CurveP384": "secp384r1",
    "CurveP521": "secp521r1",
    "X25519": "X25519",
}
VERSIONS = ("TLS12", "TLS13")
OLD_VERSIONS = ("TLS10", "TLS11")
CLIENT_AUTH_TYPES = ("NoClientCert", "VerifyClientCertIfGiven", "RequireAndVerifyClientCert")
# RequireClientCert is exporter-toolkit's older word for RequireAnyClientCert
UNCHECKED_CLIENT_AUTH_TYPES = ("RequestClientCert", "RequireAnyClientCert", "RequireClientCert")
# header: the values that it may have, or none if any
HEADERS = {
    "Content-Security-Policy": (),
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
}
BCRYPT_HASH = re.compile(r"\$2[aby]\$(0[4-9]|[12]\d|3[01])\$([./A-Za-z0-9]{53})")
# bcrypt looks at no more, and its newest Python package refuses more
BCRYPT_PASSWORD_BYTES = 72
# Compared when there is no such user, so that the time taken does not tell; the same as
# exporter-toolkit's, without its cost.
NOBODY_SALT_AND_HASH = "QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi"
REMEMBERED_FAILURES = 100


def _to_stderr(message: str) -> None:
    say(f"dynstack-probe: {message}")


class WebConfig:
    """What the file asks for, as last read without an error.

    Certificates, keys and CAs that changed on disk are read again at the next connection;
    the file itself only by `reload()`, so that one saved in two steps opens no door.
    """

    def __init__(self, path: Path, complain: Callable[[str], None] = _to_stderr) -> None:
        """Raises UsageError, in one line with file and key, for whatever is wrong with it."""
        self.path = path
        self._complain = complain
        self._lock = threading.Lock()
        self._settings = _read(path)

    def reload(self) -> None:
        """Read all of it again.

        Raises UsageError, and what was in force stays so, if something is wrong with it or
        if it would turn TLS on or off, for which clients need another URL.
        """
        fresh = _read(self.path)
        with self._lock:
            if (fresh.tls is None) != (self._settings.tls is None):
                raise UsageError(
                    f"{self.path}: tls_server_config: restart to turn TLS on or off; a reload can't"
                )
            self._settings = fresh

    @property
    def uses_tls(self) -> bool:
        """Whether connections begin with a handshake."""
        return self._settings.tls is not None

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers of every response; one that is empty must not be sent at all."""
        return self._settings.headers

    def tls_context(self) -> ssl.SSLContext | None:
        """For the next connection; None if it is not encrypted.

        If a file has changed and can't be used, the last good certificate stays, and the
        reason is complained about once.
        """
        with self._lock:
            tls = self._settings.tls
            if tls is None:
                return None
            signature = tls.files.signature()
            if signature != tls.signature:
                tls.signature = signature
                try:
                    tls.context = _make_context(tls.files)
                except UsageError as error:
                    self._complain(f"{error}; the former certificate stays in use")
            return tls.context

    def accepts_client(self, certificate: Mapping[str, Any] | None) -> bool:
        """Whether client_allowed_sans lets this peer in, by `SSLSocket.getpeercert()`.

        A client without a certificate came through the handshake because
        client_auth_type lets it, so it is not stopped here either.
        """
        tls = self._settings.tls
        if tls is None or tls.files.allowed_sans is None or not certificate:
            return True
        names = certificate.get("subjectAltName", ())
        return any(_san(kind, name) in tls.files.allowed_sans for kind, name in names)

    def is_stranger(self, authorization: str | None) -> bool:
        """Whether `permits()` would cost a bcrypt, some 100 ms of processor time."""
        users = self._settings.users
        return users.wanted and users.remembered_verdict(authorization) is None

    def permits(self, authorization: str | None) -> bool:
        """Whether a request with this Authorization header, if any, may be answered."""
        users = self._settings.users
        if not users.wanted:
            return True
        verdict = users.remembered_verdict(authorization)
        return users.check_password(authorization) if verdict is None else verdict


@dataclass(frozen=True)
class _TlsFiles:
    """tls_server_config, checked as far as it can be without reading the files it names."""

    config: Path
    certificate: _Pem
    key: _Pem
    client_ca: _Pem | None
    client_auth_type: str
    allowed_sans: frozenset[str] | None
    min_version: str
    max_version: str
    ciphers: tuple[str, ...]
    prefer_server_ciphers: bool
    curve: str | None

    def signature(self) -> tuple[object, ...]:
        """Differs when a file has changed."""
        pems = (self.certificate, self.key, self.client_ca)
        return tuple(pem.signature() for pem in pems if pem is not None)


@dataclass(frozen=True)
class _Pem:
    """A certificate or key: in a file, or in the configuration itself."""

    config: Path
    key: str
    path: Path | None
    text: str

    def read(self) -> bytes:
        if self.path is None:
            return self.text.encode()
        try:
            return self.path.read_bytes()
        except OSError as error:
            _refuse(self.config, self.key, f"can't read {self.path}: {error.strerror}")

    def signature(self) -> object:
        if self.path is None:
            return None
        try:
            stat = self.path.stat()
        except OSError:
            return "unreadable"
        return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns

    def source(self) -> str:
        return str(self.path) if self.path else "it"


@dataclass
class _Tls:
    files: _TlsFiles
    context: ssl.SSLContext
    signature: tuple[object, ...]


class _Users:
    """basic_auth_users, and what bcrypt has said so far.

    Remembered are keyed digests, never passwords: the last good one of each user, and
    apart from these the last failures, so that guessing can't push out who is known.
    """

    def __init__(self, hashes: Mapping[bytes, bytes]) -> None:
        self._hashes = hashes
        self._digest_key = os.urandom(32)
        self._accepted: dict[bytes, bytes] = {}
        self._refused: dict[bytes, None] = {}
        cost = max((hash_[4:6] for hash_ in hashes.values()), default=b"10")
        self._nobody = b"$2b$" + cost + b"$" + NOBODY_SALT_AND_HASH.encode()

    @property
    def wanted(self) -> bool:
        """Whether requests must name a user at all."""
        return bool(self._hashes)

    def remembered_verdict(self, authorization: str | None) -> bool | None:
        credentials = _credentials(authorization)
        if credentials is None:
            return False
        digest = self._digest(*credentials)
        if hmac.compare_digest(self._accepted.get(credentials[0], b""), digest):
            return True
        return False if digest in self._refused else None

    def check_password(self, authorization: str | None) -> bool:
        import bcrypt

        credentials = _credentials(authorization)
        if credentials is None:
            return False
        user, password = credentials
        hash_ = self._hashes.get(user)
        try:
            matches = bcrypt.checkpw(password[:BCRYPT_PASSWORD_BYTES], hash_ or self._nobody)
        except ValueError:  # a NUL in the password, in some versions
            matches = False
        digest = self._digest(user, password)
        if matches and hash_ is not None:
            self._accepted[user] = digest
            return True
        self._refused[digest] = None
        while len(self._refused) > REMEMBERED_FAILURES:
            del self._refused[next(iter(self._refused))]
        return False

    def _digest(self, user: bytes, password: bytes) -> bytes:
        # a user name holds no colon, so this can't be read in two ways
        return hmac.digest(self._digest_key, user + b":" + password, "sha256")


@dataclass
class _Settings:
    tls: _Tls | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    users: _Users = field(default_factory=lambda: _Users({}))


def _credentials(authorization: str | None) -> tuple[bytes, bytes] | None:
    """User and password of an Authorization header (RFC 7617), None if it has none."""
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        decoded = binascii.a2b_base64(token.strip().encode("latin-1"))
    except (binascii.Error, ValueError):
        return None
    user, colon, password = decoded.partition(b":")
    return (user, password) if colon else None


def _san(kind: str, name: str) -> str:
    """A name as Go writes it; OpenSSL writes IPv6 addresses in full."""
    if kind == "IP Address" and ":" in name:
        with contextlib.suppress(OSError):
            return socket.inet_ntop(
                socket.AF_INET6, socket.inet_pton(socket.AF_INET6, name.strip())
            )
    return name.strip()


def _refuse(config: Path, key: str, reason: str) -> NoReturn:
    raise UsageError(f"{config}: {key if key.isprintable() else ascii(key)}: {reason}")


class _Section:
    """A mapping of the file, of which every key must be asked for."""

    def __init__(self, config: Path, name: str, content: object) -> None:
        self.config = config
        self.name = name
        if content is None:
            content = {}
        if not isinstance(content, dict):
            self.refuse("", "must be a mapping of keys to values")
        self.content: dict[object, object] = content
        for key in self.content:
            if not isinstance(key, str):
                self.refuse(str(key), "a key must be a text: put it in quotes")

    def refuse(self, key: str, reason: str) -> NoReturn:
        named = ".".join(part for part in (self.name, key) if part)
        _refuse(self.config, named or "the file", reason)

    def allow_only(self, *known: str) -> None:
        for key in self.content:
            if key not in known:
                self.refuse(str(key), f"unknown key; known here are {', '.join(known)}")

    def section(self, key: str) -> _Section:
        return _Section(self.config, ".".join(filter(None, (self.name, key))), self.get(key))

    def get(self, key: str) -> object:
        return self.content.get(key)

    def text(self, key: str, default: str = "") -> str:
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            self.refuse(key, "must be a text; put it in quotes")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.refuse(key, "must be true or false")
        return value

    def texts(self, key: str) -> list[str]:
        value = self.get(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            self.refuse(key, "must be a list of texts")
        return value

    def choice(self, key: str, choices: tuple[str, ...], default: str) -> str:
        value = self.text(key) or default
        if value not in choices:
            self.refuse(key, f"{value} is unknown; choose one of {', '.join(choices)}")
        return value

    def pem(self, text_key: str, file_key: str) -> _Pem | None:
        text, file = self.text(text_key), self.text(file_key)
        if text and file:
            self.refuse(text_key, f"give this or {file_key}, not both")
        if file:
            return _Pem(self.config, f"{self.name}.{file_key}", self.config.parent / file, text="")
        if text:
            return _Pem(self.config, f"{self.name}.{text_key}", None, text)
        return None


def _read(path: Path) -> _Settings:
    root = _Section(path, "", _load_yaml(path))
    if "rate_limit" in root.content:
        root.refuse("rate_limit", "not supported: leave it out")
    root.allow_only("tls_server_config", "http_server_config", "basic_auth_users")
    files = _read_tls(root.section("tls_server_config"))
    headers = _read_http(root.section("http_server_config"))
    users = _read_users(root.section("basic_auth_users"))
    tls = None
    if files is not None:
        # first, so that a file which changes meanwhile is read again
        signature = files.signature()
        tls = _Tls(files, _make_context(files), signature)
    return _Settings(tls, headers, _Users(users))


def _load_yaml(path: Path) -> object:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"can't read {path}: {error.strerror}") from error
    try:
        import yaml
    except ImportError:
        raise UsageError(
            f"can't read {path}: PyYAML is missing; apt install python3-yaml, or pip install PyYAML"
        ) from None

    class Loader(yaml.SafeLoader):
        """Refuses a key that is there twice, of which YAML would take the last."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen = set()
            for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
                if not isinstance(key, yaml.ScalarNode):
                    continue
                if key.value in seen:
                    line = key.start_mark.line + 1
                    _refuse(path, key.value, f"given twice, again in line {line}")
                seen.add(key.value)
            return super().construct_mapping(node, deep)

    def construct(loader: Loader, node: Any) -> Any:
        return loader.construct_mapping(node, deep=True)

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, construct)
    try:
        return yaml.load(content, Loader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise UsageError(f"{path}: {line}not YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not YAML: {' '.join(str(error).split())}") from error


def _read_tls(section: _Section) -> _TlsFiles | None:
    if not section.content:
        return None
    section.allow_only(
        "cert",
        "key",
        "client_ca",
        "cert_file",
        "key_file",
        "client_ca_file",
        "client_auth_type",
        "client_allowed_sans",
        "min_version",
        "max_version",
        "cipher_suites",
        "prefer_server_cipher_suites",
        "curve_preferences",
    )
    certificate = section.pem("cert", "cert_file")
    key = section.pem("key", "key_file")
    if certificate is None:
        section.refuse("cert_file", "missing")
    if key is None:
        section.refuse("key_file", "missing")
    client_ca = section.pem("client_ca", "client_ca_file")
    client_auth_type = _client_auth_type(section, client_ca)
    min_version = _version(section, "min_version", "TLS12")
    max_version = _version(section, "max_version", "TLS13")
    if min_version > max_version:
        section.refuse("min_version", f"{min_version} is above max_version {max_version}")
    return _TlsFiles(
        config=section.config,
        certificate=certificate,
        key=key,
        client_ca=client_ca,
        client_auth_type=client_auth_type,
        allowed_sans=_allowed_sans(section, client_auth_type),
        min_version=min_version,
        max_version=max_version,
        ciphers=_ciphers(section, min_version),
        prefer_server_ciphers=section.flag("prefer_server_cipher_suites", True),
        curve=_curve(section),
    )


def _client_auth_type(section: _Section, client_ca: _Pem | None) -> str:
    value = section.text("client_auth_type")
    if value in UNCHECKED_CLIENT_AUTH_TYPES:
        section.refuse(
            "client_auth_type",
            f"{value} does not check the certificate and is not supported;"
            " RequireAndVerifyClientCert does",
        )
    value = section.choice("client_auth_type", CLIENT_AUTH_TYPES, "NoClientCert")
    if value == "NoClientCert" and client_ca is not None:
        section.refuse("client_auth_type", "missing, though there is a client CA")
    if value != "NoClientCert" and client_ca is None:
        section.refuse("client_ca_file", f"missing, and {value} needs it")
    return value


def _allowed_sans(section: _Section, client_auth_type: str) -> frozenset[str] | None:
    names = section.texts("client_allowed_sans")
    if not names:
        if section.get("client_allowed_sans") is not None:
            section.refuse("client_allowed_sans", "is empty, which would let no client in")
        return None
    if client_auth_type == "NoClientCert":
        section.refuse("client_allowed_sans", "needs a client_auth_type that checks certificates")
    return frozenset(_san("IP Address", name) for name in names)


def _version(section: _Section, key: str, default: str) -> str:
    value = section.text(key)
    if value in OLD_VERSIONS:
        section.refuse(key, f"{value} is not supported; TLS12 and TLS13 are")
    return section.choice(key, VERSIONS, default)


def _ciphers(section: _Section, min_version: str) -> tuple[str, ...]:
    names = section.texts("cipher_suites")
    for name in names:
        if name in TLS13_CIPHER_SUITES:
            section.refuse(
                "cipher_suites", f"{name} belongs to TLS 1.3, whose suites can't be chosen"
            )
        if name not in CIPHER_SUITES:
            section.refuse("cipher_suites", f"{name} is unknown or insecure")
    if names and min_version == "TLS13":
        section.refuse("cipher_suites", "has no effect on min_version TLS13: leave it out")
    return tuple(CIPHER_SUITES[name] for name in names)


def _curve(section: _Section) -> str | None:
    names = section.texts("curve_preferences")
    for name in names:
        if name not in CURVES:
            section.refuse("curve_preferences", f"{name} is not one of {', '.join(CURVES)}")
    if len(names) > 1:
        section.refuse("curve_preferences", "more than one curve is not supported")
    return CURVES[names[0]] if names else None


def _read_http(section: _Section) -> dict[str, str]:
    section.allow_only("http2", "headers")
    if section.flag("http2", False):
        section.refuse("http2", "HTTP/2 is not supported; leave it out or say false")
    headers = section.section("headers")
    headers.allow_only(*HEADERS)
    values = {str(name): headers.text(str(name)) for name in headers.content}
    for name, value in values.items():
        if value and HEADERS[name] and value not in HEADERS[name]:
            headers.refuse(name, f"{value} is not one of {', '.join(HEADERS[name])}")
        if not (value.isascii() and (value.isprintable() or not value)):
            headers.refuse(name, "must be one line of plain ASCII")
    return values


def _read_users(section: _Section) -> dict[bytes, bytes]:
    users = {}
    for user in map(str, section.content):
        if ":" in user:
            section.refuse(user, "a user's name can't hold a colon")
        hash_ = section.text(user)
        match = BCRYPT_HASH.fullmatch(hash_)
        if match is None:
            section.refuse(user, "not a bcrypt hash; `htpasswd -nBC 10 NAME` makes one")
        _try_hash(section, user, f"$2b$04${match[2]}")
        users[user.encode()] = hash_.encode()
    return users


def _try_hash(section: _Section, user: str, cheap_hash: str) -> None:
    try:
        import bcrypt
    except ImportError:
        section.refuse(
            "",
            "the bcrypt package is missing; apt install python3-bcrypt, or"
            " pip install dynstack-probe[auth]",
        )
    try:
        bcrypt.checkpw(b"", cheap_hash.encode())
    except ValueError as error:
        section.refuse(user, f"not a bcrypt hash: {error}")


def _make_context(files: _TlsFiles) -> ssl.SSLContext:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    versions = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
    context.minimum_version = versions[files.min_version]
    context.maximum_version = versions[files.max_version]
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    if files.prefer_server_ciphers:
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    else:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    _set_ciphers(context, files)
    _set_curve(context, files)
    _load_certificate(context, files)
    _load_client_ca(context, files)
    return context


def _set_ciphers(context: ssl.SSLContext, files: _TlsFiles) -> None:
    import ssl

    if not files.ciphers:
        return
    with contextlib.suppress(ssl.SSLError):
        context.set_ciphers(":".join(files.ciphers))
    offered = {cipher["name"] for cipher in context.get_ciphers()}
    for name in files.ciphers:
        if name not in offered:
            _refuse(files.config, "tls_server_config.cipher_suites", f"this OpenSSL has no {name}")


def _set_curve(context: ssl.SSLContext, files: _TlsFiles) -> None:
    if files.curve is None:
        return
    try:
        context.set_ecdh_curve(files.curve)
    except (OSError, ValueError):
        _refuse(
            files.config,
            "tls_server_config.curve_preferences",
            f"this Python's ssl can't choose {files.curve}",
        )


def _load_certificate(context: ssl.SSLContext, files: _TlsFiles) -> None:
    import ssl

    certificate, key = files.certificate, files.key
    certificate_pem, key_pem = certificate.read(), key.read()
    _require_certificates(certificate, certificate_pem)

    def refuse_encrypted() -> str:
        # without this, OpenSSL would ask at the terminal
        _refuse(files.config, key.key, f"{key.source()} is encrypted, which is not supported")

    try:
        with _as_file(certificate_pem) as chain, _as_file(key_pem) as private:
            context.load_cert_chain(chain, private, refuse_encrypted)
    except ssl.SSLError as error:
        # the latter if one is RSA and the other is not
        if error.reason in ("KEY_VALUES_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):
            _refuse(files.config, key.key, f"{key.source()} does not belong to the certificate")
        if error.reason in ("EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"):
            _refuse(files.config, certificate.key, f"too weak for OpenSSL: {error.reason}")
        _refuse(files.config, key.key, f"{key.source()} is not a private key in PEM")


def _load_client_ca(context: ssl.SSLContext, files: _TlsFiles) -> None:
    import ssl

    if files.client_ca is None:
        return
    content = files.client_ca.read()
    _require_certificates(files.client_ca, content)
    context.load_verify_locations(cadata=_ascii(content))
    context.verify_mode = (
        ssl.CERT_REQUIRED
        if files.client_auth_type == "RequireAndVerifyClientCert"
        else ssl.CERT_OPTIONAL
    )


def _require_certificates(pem: _Pem, content: bytes) -> None:
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=_ascii(content))
    except (ssl.SSLError, ValueError):
        _refuse(pem.config, pem.key, f"{pem.source()} is not a certificate in PEM")


def _ascii(content: bytes) -> str:
    """PEM for `cadata`; bundles may hold comments in any language."""
    return content.decode("ascii", "ignore")


@contextlib.contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """A name under which OpenSSL can read what never touches a disk."""
    descriptor = os.memfd_create("pem")
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
