# SPDX-License-Identifier: GPL-2.0-or-later
"""A fresh Debian or Ubuntu from its own archive, in a chroot on this machine's kernel."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests import ROOT

# What it takes to type `git clone ... && make estimate` as root.
PACKAGES = "ca-certificates,git,make"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
CHECKOUT = "/root/dynstack-probe"
UBUNTU = "[trusted=yes] http://archive.ubuntu.com/ubuntu"  # Debian does not ship its key
# Each command sees this machine's devices and kernel; its mounts end with it.
ENTER = """
root=$1 folder=$2; shift 2
for name in dev proc sys; do mount --rbind /$name $root/$name || exit; done
exec chroot $root sh -c 'cd "$0" && exec "$@"' "$folder" "$@"
"""


@dataclass(frozen=True)
class Distribution:
    """A suite, and its sources.list lines; none for mmdebstrap's own Debian default."""

    name: str
    suite: str
    sources: tuple[str, ...] = ()


DISTRIBUTIONS = (
    Distribution("debian-12", "bookworm", ("http://deb.debian.org/debian",)),
    Distribution("debian-13", "trixie", ("http://deb.debian.org/debian",)),
    Distribution(
        "ubuntu-24.04",
        "noble",
        tuple(f"deb {UBUNTU} {suite} main universe" for suite in ("noble", "noble-updates")),
    ),
)


@dataclass(frozen=True)
class Machine:
    """A root with a clone of this checkout."""

    root: Path

    def enter(self, folder: str = CHECKOUT) -> list[str]:
        """Prefix of a command that runs in there."""
        return ["unshare", "--mount", "sh", "-c", ENTER, "sh", str(self.root), folder]

    def type(self, text: str, folder: str = CHECKOUT, minutes: float = 20) -> str:
        """Output of a shell line; fails if the line does."""
        result = subprocess.run(
            [*self.enter(folder), "sh", "-c", text],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=60 * minutes,
            check=False,
            env=environment(),
        )
        assert result.returncode == 0, f"{text}: {result.stdout[-4000:]}"
        return result.stdout


def environment() -> dict[str, str]:
    """As of a root login, plus what pip needs to reach PyPI from here."""
    kept = {n: v for n, v in os.environ.items() if n.startswith("PIP_") or n.endswith("_proxy")}
    path = "/root/.local/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    login = {"PATH": path, "HOME": "/root", "LANG": "C.UTF-8", "TERM": "xterm"}
    return {**kept, **login, "DEBIAN_FRONTEND": "noninteractive"}


def make(distribution: Distribution, root: Path) -> Machine:
    subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=apt", "--dpkgopt=force-unsafe-io",
         f"--include={PACKAGES}", distribution.suite, root, *distribution.sources],
        check=True,
    )  # fmt: skip
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    if CERTIFICATES.exists():  # includes a proxy's, if there is one
        shutil.copy(CERTIFICATES, root / CERTIFICATES.relative_to("/"))
    subprocess.run(["git", "clone", "--quiet", ROOT, f"{root}{CHECKOUT}"], check=True)
    machine = Machine(root)
    machine.type("apt-get update -qq")
    return machine
