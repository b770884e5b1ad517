# SPDX-License-Identifier: GPL-2.0-or-later
"""tls_server_config: the TLS context, with certificates reloaded when they change on disk."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from dynstack_probe.httpd.checked import refuse
from dynstack_probe.httpd.web_config import (
    CIPHER_SUITES,
    CLIENT_AUTH_TYPES,
    CURVES,
    TLS_SECTION,
    VERSIONS,
)

# OpenSSL's reason codes; the second if only one of certificate and key is RSA
MISMATCH = ("KEY_VALUES_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
WEAK = ("EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK")


class Tls:
    """A tls_server_config, validated by web_config.py, and its PEM files."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Read the files. Raises RefusalError."""
        self._settings = settings
        pems = (_pem(folder, settings, name) for name in ("cert", "key", "client_ca"))
        self._certificate, self._key, self._client_ca = pems
        sans = settings["client_allowed_sans"]
        self._allowed_sans = None if sans is None else {_san("IP Address", name) for name in sans}
        # before reading, so that a file that changes meanwhile is reloaded
        self._signature = self._files()
        self.context = self._make_context()

    def refresh(self) -> None:
        """Reload the files if one has changed.

        Raises RefusalError once per change, and keeps the old context, if one can't be used.
        """
        signature = self._files()
        if signature != self._signature:
            self._signature = signature
            self.context = self._make_context()

    def allows(self, certificate: Mapping[str, Any]) -> bool:
        """Whether client_allowed_sans is unset, or lists one of the certificate's names."""
        names = certificate.get("subjectAltName", ())
        return self._allowed_sans is None or any(
            _san(*name) in self._allowed_sans for name in names
        )

    def _files(self) -> list[object]:
        """Compares unequal once a file has changed."""
        return [pem.signature() for pem in (self._certificate, self._key, self._client_ca)]

    def _make_context(self) -> ssl.SSLContext:
        settings = self._settings
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion[VERSIONS[settings["min_version"]]]
        context.maximum_version = ssl.TLSVersion[VERSIONS[settings["max_version"]]]
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
        if not settings["prefer_server_cipher_suites"]:
            context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
        context.set_alpn_protocols(["http/1.1"])
        _set_ciphers(context, [CIPHER_SUITES[name] for name in settings["cipher_suites"]])
        _set_curves(context, settings["curve_preferences"])
        self._load_certificate(context)
        context.verify_mode = ssl.VerifyMode[CLIENT_AUTH_TYPES[settings["client_auth_type"]]]
        if context.verify_mode is not ssl.CERT_NONE:
            context.load_verify_locations(cadata=self._client_ca.certificates())
        return context

    def _load_certificate(self, context: ssl.SSLContext) -> None:
        certificate, key = self._certificate, self._key
        certificate.certificates()
        try:
            with certificate.as_file() as chain, key.as_file() as private:
                # without a password callback OpenSSL would prompt on the terminal
                context.load_cert_chain(
                    chain, private, lambda: key.refuse("is encrypted, which is not supported")
                )
        except ssl.SSLError as error:
            if error.reason in WEAK:
                refuse(certificate.name, f"too weak for OpenSSL: {error.reason}")
            if error.reason in MISMATCH:
                key.refuse("does not match the certificate")
            key.refuse("is not a PEM private key")


@dataclass(frozen=True)
class _Pem:
    """A certificate or key: in a file, or inline in the configuration."""

    name: str
    path: Path | None
    text: str

    def refuse(self, reason: str) -> NoReturn:
        refuse(self.name, f"{self.path or 'it'} {reason}")

    def read(self) -> bytes:
        try:
            return self.path.read_bytes() if self.path else self.text.encode()
        except OSError as error:
            refuse(self.name, f"can't read {self.path}: {error.strerror}")

    def signature(self) -> object:
        try:
            stat = self.path.stat() if self.path else None
        except OSError:
            return "unreadable"
        return stat and (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)

    def certificates(self) -> str:
        """For `cadata`, which must be ASCII: comments may hold anything else."""
        text = self.read().decode("ascii", "ignore")
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
        except (ssl.SSLError, ValueError):
            self.refuse("is not a PEM certificate")
        return text

    @contextlib.contextmanager
    def as_file(self) -> Iterator[str]:
        """A memfd's path: OpenSSL only reads files, and the key must not be written to disk."""
        content = self.read()
        with os.fdopen(os.memfd_create("pem"), "wb") as file:
            file.write(content)
            file.flush()
            yield f"/proc/self/fd/{file.fileno()}"


def _pem(folder: Path, settings: Mapping[str, Any], name: str) -> _Pem:
    file = settings[f"{name}_file"]
    key = f"{TLS_SECTION}.{name}{'_file' if file else ''}"
    return _Pem(key, folder / file if file else None, settings[name])


def _san(kind: str, name: str) -> str:
    """The name as Go formats it; OpenSSL does not compress IPv6 addresses."""
    if kind == "IP Address" and ":" in name:
        with contextlib.suppress(OSError):
            return socket.inet_ntop(
                socket.AF_INET6, socket.inet_pton(socket.AF_INET6, name.strip())
            )
    return name.strip()


def _set_ciphers(context: ssl.SSLContext, names: list[str]) -> None:
    if not names:
        return
    with contextlib.suppress(ssl.SSLError):
        context.set_ciphers(":".join(names))
    offered = {cipher["name"] for cipher in context.get_ciphers()}
    for name in names:
        if name not in offered:
            refuse(f"{TLS_SECTION}.cipher_suites", f"this OpenSSL does not support {name}")


def _set_curves(context: ssl.SSLContext, names: list[str]) -> None:
    for name in names:  # one at most
        try:
            context.set_ecdh_curve(CURVES[name])
        except (OSError, ValueError):
            refuse(
                f"{TLS_SECTION}.curve_preferences",
                f"this Python's ssl can't set {CURVES[name]}",
            )
