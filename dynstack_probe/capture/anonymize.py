# SPDX-License-Identifier: GPL-2.0-or-later
"""Remove names from a frame, so that it can be shared."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import replace

from dynstack_probe.model import roles
from dynstack_probe.model.frame import Frame
from dynstack_probe.model.host import KernelFacts

# Boot parameters that bear on stacks; all others go, with host names and disk labels in them.
KEPT_PARAMETERS = ("randomize_kstack_offset", "mitigations", "isolcpus", "nohz_full", "kasan")
_PREFIXES = {roles.KWORKER: "kworker", roles.VCPU: "vcpu", roles.IO_WORKER: "iou-wrk"}


class Anonymizer:
    """Replaces names with tokens; equal names get equal tokens.

    Across captures too where they are given the same `key`. Without it nobody can find a
    token by trying names, as the key is drawn at random and never kept.
    """

    def __init__(self, key: bytes | None = None) -> None:
        self._key = hashlib.blake2b(secrets.token_bytes(32) if key is None else key).digest()

    def frame(self, frame: Frame) -> Frame:
        """Without command names, cgroup paths, and boot parameters unrelated to stacks."""
        stacks = frame.stacks
        tokens = {
            (kind, comm): self._comm(kind, comm)
            for kind, comm in set(zip(stacks.kinds, stacks.comms, strict=True))
        }
        comms = [tokens[pair] for pair in zip(stacks.kinds, stacks.comms, strict=True)]
        paths = {number: self._path(path) for number, path in frame.cgroup_paths.items()}
        return replace(
            frame,
            stacks=replace(stacks, comms=comms),
            cgroup_paths=paths,
            kernel=_kernel(frame.kernel),
        )

    def _token(self, name: bytes) -> str:
        return hashlib.blake2b(name, digest_size=5, key=self._key).hexdigest()

    def _comm(self, kind: int, comm: bytes) -> bytes:
        """A token that preserves the role."""
        prefix = _PREFIXES.get(roles.role_of(kind, comm), "comm")
        return f"{prefix}-{self._token(comm)}".encode()

    def _path(self, path: str) -> str:
        """Each component separately, which preserves the hierarchy."""
        parts = path.split("/")
        return "/".join(part and self._token(part.encode("utf-8", "replace")) for part in parts)


def _kernel(kernel: KernelFacts) -> KernelFacts:
    words = kernel.command_line.split()
    kept = [word for word in words if word.split("=", 1)[0] in KEPT_PARAMETERS]
    return replace(kernel, command_line=" ".join(kept))
