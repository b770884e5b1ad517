# SPDX-License-Identifier: GPL-2.0-or-later
"""HTTP basic authentication against bcrypt hashes, with cached verdicts."""

from __future__ import annotations

import binascii
import hmac
import os
from collections.abc import Mapping

# bcrypt ignores what is beyond; the Python package rejects longer passwords from 5.0 on
BCRYPT_PASSWORD_BYTES = 72
# Compared for an unknown user, so that timing does not reveal which users exist; that of
# exporter-toolkit, without its cost factor.
DUMMY_SALT_AND_HASH = "QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi"
CACHED_FAILURES = 100


class Users:
    """basic_auth_users, with a cache of bcrypt's verdicts.

    It holds keyed digests, never passwords: the last accepted one of each user and,
    separately, recent failures, so that brute-force attempts can't evict a valid user.
    """

    def __init__(self, hashes: Mapping[bytes, bytes]) -> None:
        self._hashes = hashes
        self._digest_key = os.urandom(32)
        self._accepted: dict[bytes, bytes] = {}
        self._refused: dict[bytes, None] = {}
        cost = max((hash_[4:6] for hash_ in hashes.values()), default=b"10")
        self._dummy_hash = b"$2b$" + cost + b"$" + DUMMY_SALT_AND_HASH.encode()

    def cached_verdict(self, authorization: str | None) -> bool | None:
        """The cached verdict; None if check_password() must be called."""
        if not self._hashes:
            return True  # no authentication configured
        credentials = _credentials(authorization)
        if credentials is None:
            return False
        digest = self._digest(*credentials)
        if hmac.compare_digest(self._accepted.get(credentials[0], b""), digest):
            return True
        return False if digest in self._refused else None

    def check_password(self, authorization: str | None) -> bool:
        """Verify by bcrypt, which takes some 100 ms of CPU time, and cache the verdict."""
        import bcrypt

        credentials = _credentials(authorization)
        if credentials is None:
            return False
        user, password = credentials
        hash_ = self._hashes.get(user)
        try:
            matches = bcrypt.checkpw(password[:BCRYPT_PASSWORD_BYTES], hash_ or self._dummy_hash)
        except ValueError:  # a NUL in the password, with some versions of bcrypt
            matches = False
        digest = self._digest(user, password)
        if matches and hash_ is not None:
            self._accepted[user] = digest
            return True
        self._refused[digest] = None
        while len(self._refused) > CACHED_FAILURES:
            del self._refused[next(iter(self._refused))]
        return False

    def _digest(self, user: bytes, password: bytes) -> bytes:
        # unambiguous: a user name contains no colon
        return hmac.digest(self._digest_key, user + b":" + password, "sha256")


def _credentials(authorization: str | None) -> tuple[bytes, bytes] | None:
    """User and password from an Authorization header (RFC 7617); None if there are none."""
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        decoded = binascii.a2b_base64(token.strip().encode("latin-1"))
    except (binascii.Error, ValueError):
        return None
    user, colon, password = decoded.partition(b":")
    return (user, password) if colon else None
