"""Debian's kernels, each in an emulated machine that has this machine's root, read-only.

The kernels and busybox are Debian packages, downloaded through an apt configuration of
our own and unpacked into a cache: nothing is installed on this machine and its own package
lists stay as they are. Delete the cache to get newer kernels.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import json
import lzma
import os
import re
import shutil
import subprocess
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests import ROOT

QEMU = "qemu-system-x86_64"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# Suites that hold the kernels, by the label of their archive.
SUITES = (
    ("Debian", "bookworm"),
    ("Debian-Security", "bookworm-security"),
    ("Debian", "bookworm-backports"),
)
MODULES = ("virtio_pci", "9pnet_virtio", "9p")
MEMORY_MIB = 1024
# Emulated CPUs are some 20 times slower than real ones, and others use this machine too.
BOOT_TIMEOUT_SECONDS = 900
DOWNLOAD_TIMEOUT_SECONDS = 600
CONSOLE_LINES_SHOWN = 80

# Guest's PID 1. /mnt becomes the root of guest.py; the checkout may lie in this machine's
# /tmp, so it comes separately. The kernel's configuration is found in /boot, as on Debian.
INIT = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*; do insmod $module; done
ifconfig lo 127.0.0.1 up
share() {
    mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=262144,cache=loose $1 $2 ||
        { echo "guest: no $1 over 9p"; poweroff -f; }
}
share root /mnt
mount -t tmpfs tmp /mnt/tmp
mount -t tmpfs run /mnt/run
mkdir /mnt/tmp/checkout
share checkout /mnt/tmp/checkout
mount --bind /boot /mnt/boot
mount -t proc proc /mnt/proc
mount -t sysfs sys /mnt/sys
mount -t cgroup2 cgroup2 /mnt/sys/fs/cgroup
mount --bind /dev /mnt/dev
echo "guest: Linux $(uname -r) is up after $(cut -d' ' -f1 /proc/uptime) s"
chroot /mnt /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LANG=C.UTF-8 \\
    DYNSTACK_PROBE_TIMEOUT=600 PYTHONDONTWRITEBYTECODE=1 \\
    /bin/sh -c 'cd /tmp/checkout && exec /usr/bin/python3 -m tests.vm.guest "$@"' sh \\
    @PARTS@ >/dev/ttyS1 2>/dev/console
echo "guest: ended with code $? after $(cut -d' ' -f1 /proc/uptime) s"
poweroff -f
"""


class UnavailableError(Exception):
    """What a virtual machine needs can't be had here; says what, and how to get it."""


class GuestError(AssertionError):
    """The virtual machine did not do its work; says why, with the end of its console."""


class Kernel(NamedTuple):
    """A Debian kernel, unpacked in the cache."""

    release: str
    folder: Path

    @property
    def image(self) -> Path:
        return self.folder / "vmlinuz"

    @property
    def config(self) -> Path:
        return self.folder / "config"

    def modules(self) -> list[Path]:
        """Those asked for, in the order in which they must be loaded."""
        return sorted((self.folder / "modules").iterdir())


def cache_folder() -> Path:
    if os.geteuid() == 0:
        return Path("/var/cache/dynstack-probe-vm")
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "dynstack-probe-vm"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One at a time fills the cache."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def check_host() -> None:
    """Raise UnavailableError if no kernel at all can be booted here."""
    if os.uname().machine != "x86_64":
        raise UnavailableError(
            f"the guest runs this machine's programs: {os.uname().machine}, not x86"
        )
    if shutil.which(QEMU) is None:
        raise UnavailableError(f"no {QEMU} here: apt-get install qemu-system-x86")


def get_kernel(series: str, modules: tuple[str, ...] = MODULES) -> Kernel:
    """The newest kernel of that series (as "6.12") which Debian 12 has, or the one in the cache.

    With these modules. Raises UnavailableError.
    """
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / (series if modules == MODULES else "-".join((series, *modules)))
    with locked(cache):
        if not (cache / "busybox").exists() or not folder.exists():
            _update(cache)
        if not (cache / "busybox").exists():
            _fill_busybox(cache)
        if not folder.exists():
            _fill_kernel(cache, series, modules, folder)
    return Kernel((folder / "release").read_text(), folder)


def _fill_busybox(cache: Path) -> None:
    with _unpacked(cache, "busybox-static") as unpacked:
        # last, and at once: what exists is whole
        (unpacked / "bin/busybox").rename(cache / "busybox")


def _fill_kernel(cache: Path, series: str, modules: tuple[str, ...], folder: Path) -> None:
    package, version = newest_kernel(_apt(cache, "apt-cache", "show", "linux-image-amd64"), series)
    with _unpacked(cache, f"{package}={version}") as unpacked:
        release = package.removeprefix("linux-image-")
        fresh = unpacked / "fresh"
        (fresh / "modules").mkdir(parents=True)
        (unpacked / f"boot/vmlinuz-{release}").rename(fresh / "vmlinuz")
        (unpacked / f"boot/config-{release}").rename(fresh / "config")
        for number, (name, content) in enumerate(modules_in_order(unpacked, modules)):
            (fresh / f"modules/{number:02}-{name}.ko").write_bytes(content)
        (fresh / "release").write_text(release)
        fresh.rename(folder)


def newest_kernel(stanzas: str, series: str) -> tuple[str, str]:
    """The package and version that a linux-image-amd64 depends on.

    `stanzas` is what `apt-cache show` prints, the newest first. Raises UnavailableError.
    """
    wanted = rf"^Depends: .*?(linux-image-{re.escape(series)}\.\S+-amd64) \(= (\S+)\)"
    found = re.search(wanted, stanzas, re.MULTILINE)
    if not found:
        raise UnavailableError(
            f"no linux-image-amd64 of Linux {series} in Debian 12 or its backports"
        )
    return found[1], found[2]


def modules_in_order(unpacked: Path, modules: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """These and what they depend on, each after what it needs, decompressed."""
    files = {
        path.name.partition(".")[0].replace("-", "_"): path for path in unpacked.rglob("*.ko*")
    }
    seen: set[str] = set()

    def visit(name: str) -> Iterator[tuple[str, bytes]]:
        # one without a file is built into the kernel
        if name in seen or name not in files:
            return
        seen.add(name)
        content = files[name].read_bytes()
        if files[name].suffix == ".xz":
            content = lzma.decompress(content)
        depends = re.search(rb"(?<![a-z])depends=([\w,-]*)\0", content)
        for needed in depends[1].decode().split(",") if depends else ():
            yield from visit(needed.replace("-", "_"))
        yield name, content

    for name in modules:
        yield from visit(name)


@contextlib.contextmanager
def _unpacked(cache: Path, package: str) -> Iterator[Path]:
    """A package's files, in a folder on the cache's file system that goes afterwards."""
    with tempfile.TemporaryDirectory(dir=cache) as name:
        folder = Path(name)
        _apt(cache, "apt-get", "download", package, folder=folder)
        (deb,) = folder.glob("*.deb")
        run(["dpkg-deb", "-x", str(deb), str(folder)], cwd=folder)
        yield folder


def _update(cache: Path) -> None:
    if not KEYRING.exists():
        raise UnavailableError(f"no {KEYRING}: apt-get install debian-archive-keyring")
    apt = cache / "apt"
    for folder in ("lists/partial", "cache/archives/partial"):
        (apt / folder).mkdir(parents=True, exist_ok=True)
    (apt / "sources.list").write_text(sources())
    (apt / "status").touch()
    # without this apt-get takes a failed download of a list for a warning
    _apt(cache, "apt-get", "update", "-o", "APT::Update::Error-Mode=any")


def sources() -> str:
    """A sources.list for SUITES, from the mirrors that this machine itself uses."""
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    mirrors = dict(line.split(" ", 1) for line in listed.splitlines() if " " in line)
    lines = [
        f"deb [arch=amd64 signed-by={KEYRING}] {mirrors[label]} {suite} main\n"
        for label, suite in SUITES
        if label in mirrors
    ]
    if not lines:
        raise UnavailableError("apt here knows no Debian archive: apt-get update, or use Debian")
    return "".join(lines)


def _apt(cache: Path, *command: str, folder: Path | None = None) -> str:
    """Run apt with our sources, lists and cache, and with no package installed."""
    apt = cache / "apt"
    settings = {
        "Dir::Etc::SourceList": apt / "sources.list",
        "Dir::Etc::SourceParts": "-",
        "Dir::Etc::Preferences": "-",
        "Dir::Etc::PreferencesParts": "-",
        "Dir::State::Lists": apt / "lists",
        "Dir::State::Status": apt / "status",
        "Dir::Cache": apt / "cache",
        "APT::Architecture": "amd64",
        "APT::Default-Release": "",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Acquire::Retries": 3,
    }
    options = [f"-o{key}={value}" for key, value in settings.items()]
    return run([command[0], "-qq", *options, *command[1:]], cwd=folder or cache)


def run(command: list[str], cwd: Path) -> str:
    """What it prints. Raises UnavailableError with the first line that it complained of."""
    try:
        result = subprocess.run(
            command,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_TIMEOUT_SECONDS,
            check=True,
        )
    except FileNotFoundError as error:
        raise UnavailableError(f"no {command[0]} here: is this Debian or Ubuntu?") from error
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"{command[0]} took longer than {error.timeout:g} s") from error
    except subprocess.CalledProcessError as error:
        lines = error.stderr.splitlines() or [f"ended with {error.returncode}"]
        raise UnavailableError(f"{command[0]} could not get it: {lines[0]}") from error
    return result.stdout


def initramfs(kernel: Kernel, init: str) -> bytes:
    """A first root with busybox and the kernel's modules, and this script as its PID 1."""
    files = {
        "init": init.encode(),
        "bin/busybox": (cache_folder() / "busybox").read_bytes(),
        f"boot/config-{kernel.release}": kernel.config.read_bytes(),
    }
    files |= {f"modules/{path.name}": path.read_bytes() for path in kernel.modules()}
    archive = b"".join(
        _cpio_entry(folder, 0o40755, b"")
        for folder in ("bin", "boot", "dev", "mnt", "modules", "proc", "sys")
    )
    archive += b"".join(_cpio_entry(name, 0o100755, data) for name, data in files.items())
    return gzip.compress(archive + _cpio_entry("TRAILER!!!", 0, b""), compresslevel=1)


def _cpio_entry(name: str, mode: int, data: bytes) -> bytes:
    """The "newc" format of the kernel's Documentation/driver-api/early-userspace."""
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    header = b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
    return _padded(header) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def boot(kernel: Kernel, smp: str, parts: list[str]) -> dict[str, Any]:
    """Boot it with QEMU's `-smp`, do these parts of guest.py; returns what it noted.

    Raises GuestError.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        console, facts, ramdisk = (folder / f for f in ("console", "facts", "initramfs"))
        console.touch()
        facts.touch()
        ramdisk.write_bytes(initramfs(kernel, INIT.replace("@PARTS@", " ".join(parts))))
        command = [
            *emulator(kernel, smp, ramdisk, console),
            *("-serial", f"file:{facts}"),
            *share("root", Path("/")),
            *share("checkout", ROOT),
        ]
        started = time.monotonic()
        try:
            result = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=BOOT_TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            why = f"did not end within {error.timeout:g} s"
            raise failure(kernel, smp, why, console) from error
        if result.returncode:
            why = f"could not run: {QEMU} says: {result.stderr.strip()}"
            raise failure(kernel, smp, why, console)
        try:
            noted: dict[str, Any] = json.loads(facts.read_bytes())
        except ValueError as error:
            raise failure(kernel, smp, "ended without a result", console) from error
        return {**noted, "seconds": time.monotonic() - started}


def emulator(kernel: Kernel, smp: str, ramdisk: Path, console: Path) -> list[str]:
    """The command that boots it, with its console in a file and no other device yet."""
    return [
        # one thread for all CPUs: with several, QEMU 7.2 was seen to run a breakpoint which
        # the kernel had already patched away (int3 in a static branch), and it panicked
        *("nice", QEMU, "-accel", "tcg,thread=single", "-machine", "q35", "-cpu", "max"),
        *("-smp", smp, "-m", str(MEMORY_MIB), "-nodefaults", "-display", "none"),
        *("-no-reboot", "-kernel", str(kernel.image), "-initrd", str(ramdisk)),
        *("-append", "console=ttyS0 panic=-1 loglevel=4"),
        *("-serial", f"file:{console}"),
    ]


def quoted(path: Path) -> str:
    """A path in one of QEMU's options, where a comma is doubled."""
    return str(path).replace(",", ",,")


def share(tag: str, path: Path) -> tuple[str, str]:
    """A folder of this machine, read-only, over 9p."""
    return (
        "-virtfs",
        f"local,path={quoted(path)},mount_tag={tag},security_model=none,readonly=on,multidevs=remap",
    )


def failure(kernel: Kernel, smp: str, why: str, console: Path) -> GuestError:
    """What to raise when a machine does not do its work."""
    text = console.read_text(errors="replace")
    text = re.sub(r"\x1b[\[c]?[0-9;?]*[A-Za-z]?|\r", "", text)
    end = "\n".join(text.splitlines()[-CONSOLE_LINES_SHOWN:])
    return GuestError(
        f"the virtual machine with Linux {kernel.release} and -smp {smp} {why}.\n"
        f"The end of its console:\n{textwrap.indent(end or '(nothing)', '  | ')}"
    )
