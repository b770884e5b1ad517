# SPDX-License-Identifier: GPL-2.0-or-later
"""A kernel that counts stack usage itself, built from Debian's linux-source.

tinyconfig and kernel.config beside this file: minutes to build. Source and result lie in the
cache of tests/vm; the result stays until kernel.config changes or the cache is deleted.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.vm.machine import Kernel, UnavailableError, ask_archive, cache_folder, locked, run

# The first with kstack_* in /proc/vmstat.
SOURCE = "linux-source-6.12"
FRAGMENT = Path(__file__).parent / "kernel.config"
TOOLS = {"flex": "flex", "bison": "bison", "bc": "bc", "pahole": "pahole", "gcc": "gcc"}
BUILD_TIMEOUT_SECONDS = 3600


def get_truth_kernel() -> tuple[Kernel, str]:
    """The kernel, and the version of Debian's source. Raises UnavailableError."""
    cache = cache_folder() / "truth"
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache):
        folder = cache / hashlib.sha256(FRAGMENT.read_bytes()).hexdigest()[:16]
        if not folder.exists():
            for tool, package in TOOLS.items():
                if shutil.which(tool) is None:
                    raise UnavailableError(f"no {tool} here: apt-get install {package}")
            version = newest(ask_archive("apt-cache", "madison", SOURCE, folder=cache))
            _build(cache, version, folder)
    return Kernel((folder / "release").read_text(), folder), (folder / "version").read_text()


def newest(madison: str) -> str:
    """Of what `apt-cache madison` prints, newest first."""
    versions = [line.split("|")[1].strip() for line in madison.splitlines() if "|" in line]
    if not versions:
        raise UnavailableError(f"Debian's archive has no {SOURCE}")
    return versions[0]


def _build(cache: Path, version: str, folder: Path) -> None:
    work = cache / "build"
    shutil.rmtree(work, ignore_errors=True)
    source = work / "source"
    source.mkdir(parents=True)
    _say(f"downloading {SOURCE} {version}")
    ask_archive("apt-get", "download", f"{SOURCE}={version}", folder=work)
    (deb,) = work.glob("*.deb")
    run(["dpkg-deb", "-x", str(deb), str(work)], cwd=work)
    archive = work / f"usr/src/{SOURCE}.tar.xz"
    run(["tar", "-xf", str(archive), "-C", str(source), "--strip-components=1"], cwd=work)
    run(["make", "-s", "tinyconfig"], cwd=source)
    run(["scripts/kconfig/merge_config.sh", "-m", ".config", str(FRAGMENT)], cwd=source)
    run(["make", "-s", "olddefconfig"], cwd=source)
    missing = set(_options(FRAGMENT)) - set(_options(source / ".config"))
    if missing:
        raise UnavailableError(f"{SOURCE} {version} did not take {', '.join(sorted(missing))}")
    jobs = f"-j{os.cpu_count()}"
    _say(f"building it: {len(_options(source / '.config'))} options, some minutes")
    with (work / "log").open("w") as log:
        result = subprocess.run(
            ["nice", "make", "-s", jobs, "bzImage"],
            cwd=source,
            stdout=log,
            stderr=log,
            timeout=BUILD_TIMEOUT_SECONDS,
            check=False,
        )
    if result.returncode:
        raise UnavailableError(f"the kernel could not be built: see {work}/log")
    _say("built")
    fresh = work / "fresh"
    (fresh / "modules").mkdir(parents=True)  # it needs none
    (source / "arch/x86/boot/bzImage").rename(fresh / "vmlinuz")
    (source / ".config").rename(fresh / "config")
    (fresh / "release").write_text((source / "include/config/kernel.release").read_text().strip())
    (fresh / "version").write_text(version)
    # last, and at once: what exists is whole
    fresh.rename(folder)
    shutil.rmtree(work)


def _options(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line.startswith("CONFIG_")]


def _say(what: str) -> None:
    print(f"truth: {what}", file=sys.stderr, flush=True)
