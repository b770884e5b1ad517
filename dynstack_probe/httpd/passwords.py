# SPDX-License-Identifier: GPL-2.0-or-later
"""Users by name and password, HTTP's basic authentication: bcrypt asked as rarely as can be."""

from __future__ import annotations

import binascii
import hmac
import os
from collections.abc import Mapping

# bcrypt looks at no more, and its newest Python package refuses more
BCRYPT_PASSWORD_BYTES = 72
# Compared when there is no such user, so that the time taken does not tell; the same as
# exporter-toolkit's, without its cost.
DUMMY_SALT_AND_HASH = "QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi"
CACHED_FAILURES = 100


class Users:
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
        self._dummy_hash = b"$2b$" + cost + b"$" + DUMMY_SALT_AND_HASH.encode()

    def cached_verdict(self, authorization: str | None) -> bool | None:
        """What bcrypt once said, None if it must be asked: check_password()."""
        if not self._hashes:
            return True  # nobody need be named
        credentials = _credentials(authorization)
        if credentials is None:
            return False
        digest = self._digest(*credentials)
        if hmac.compare_digest(self._accepted.get(credentials[0], b""), digest):
            return True
        return False if digest in self._refused else None

    def check_password(self, authorization: str | None) -> bool:
        """By bcrypt, some 100 ms of processor time."""
        import bcrypt

        credentials = _credentials(authorization)
        if credentials is None:
            return False
        user, password = credentials
        hash_ = self._hashes.get(user)
        try:
            matches = bcrypt.checkpw(password[:BCRYPT_PASSWORD_BYTES], hash_ or self._dummy_hash)
        except ValueError:  # a NUL in the password, in some versions
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
        # a user name holds no colon, so this can't be read in two ways
        return hmac.digest(self._digest_key, user + b":" + password, "sha256")


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
