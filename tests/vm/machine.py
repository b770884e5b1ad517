# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's kernels, each in an emulated machine that has this machine's root, read-only.

The kernels and busybox are Debian packages, downloaded through an apt configuration of
our own and unpacked into a cache: nothing is installed on this machine and its own package
lists stay as they are. Delete the cache to get newer kernels.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests import ROOT

QEMU = "qemu-system-x86_64"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# Suites that hold the kernels. Which kernels they have is asked, so that the next release is
# tried without an edit; a suite that is gone from the archive is left out.
SUITES = (
    *("bullseye", "bookworm", "bookworm-backports", "stable", "stable-backports"),
    *("unstable", "experimental"),
)
MODULES = ("virtio_pci", "9pnet_virtio", "9p")
# Debian's cloud kernels have no 9p; 6.12's has these built in.
CLOUD_MODULES = ("virtio_pci", "virtiofs")
VIRTIOFSD = Path("/usr/lib/qemu/virtiofsd")
MEMORY_MIB = 1024
# One thread for all CPUs: with several, QEMU 7.2 was seen to execute an int3 that the guest had
# already patched out (a static branch), and the guest panicked. tb-size: its translation cache
# grows to 1 GiB by default, which makes QEMU the OOM killer's first victim.
ACCELERATOR = "tcg,thread=single,tb-size=384"
# Without cmpxchg16b: QEMU 7.2 was seen to leave an address in place of the flags, and the guest
# then double-faulted (__kmalloc, on a busy host).
CPU = "max,-cx16"
# A guest starved of CPU time must not report a broken timer or a lockup.
PATIENCE = "no_timer_check watchdog_thresh=60"
# Emulated CPUs are some 20 times slower than real ones, and others use this machine too.
BOOT_TIMEOUT_SECONDS = 2400
DOWNLOAD_TIMEOUT_SECONDS = 600
LISTS_SECONDS = 12 * 3600
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
for module in /modules/*; do [ ! -e $module ] || insmod $module; done
ifconfig lo 127.0.0.1 up
share() {
    if grep -qw 9p /proc/filesystems
    then mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=262144,cache=loose $1 $2
    else mount -t virtiofs -o ro $1 $2
    fi || { echo "guest: no $1"; poweroff -f; }
}
share root /mnt
mount -t tmpfs tmp /mnt/tmp
mount -t tmpfs run /mnt/run
mkdir /mnt/tmp/checkout
share checkout /mnt/tmp/checkout
mount --bind /boot /mnt/boot
mount -t proc proc /mnt/proc
mount -t sysfs sys /mnt/sys
if grep -q cgroup_v1_only /proc/cmdline; then
    mount -t tmpfs cgroup /mnt/sys/fs/cgroup
    for name in memory pids; do
        mkdir /mnt/sys/fs/cgroup/$name
        mount -t cgroup -o $name $name /mnt/sys/fs/cgroup/$name
    done
else mount -t cgroup2 cgroup2 /mnt/sys/fs/cgroup
fi
grep -q with_securityfs /proc/cmdline && mount -t securityfs securityfs /mnt/sys/kernel/security
grep -q hidepid /proc/cmdline && mount -o remount,hidepid=2 /mnt/proc
mount --bind /dev /mnt/dev
echo "guest: Linux $(uname -r) is up after $(cut -d' ' -f1 /proc/uptime) s"
chroot /mnt /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LANG=C.UTF-8 \\
    DYNSTACK_PROBE_TIMEOUT=600 PYTHONDONTWRITEBYTECODE=1 \\
    /bin/sh -c 'cd /tmp/checkout && exec /usr/bin/python3 -m @MODULE@ "$@"' sh \\
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
    """Lock: only one process fills the cache."""
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


class Offer(NamedTuple):
    """A kernel that the archive has: its package, its version, and the suite."""

    package: str
    version: str
    suite: str

    @property
    def series(self) -> str:
        """As 6.12."""
        return ".".join(self.version.split(".")[:2]).partition("~")[0]


@functools.cache
def offers() -> list[Offer]:
    """The newest kernel of each flavour in each suite. Raises UnavailableError."""
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache):
        if not (cache / "updated").exists() or _age(cache / "updated") > LISTS_SECONDS:
            _update(cache)
        flavours = [f"linux-image-{flavour}amd64" for flavour in ("", "rt-", "cloud-")]
        return offered(_apt(cache, "apt-cache", "madison", *flavours))


def offered(madison: str) -> list[Offer]:
    """From what `apt-cache madison` prints: package | version | URI suite/main ..."""
    found: dict[tuple[str, str], Offer] = {}
    for line in madison.splitlines():
        package, version, source = (part.strip() for part in line.split("|"))
        suite = source.split()[1].partition("/")[0]
        found.setdefault((package, suite), Offer(package, version, suite))
    return list(found.values())


def by_version(offer: Offer) -> tuple[int, ...]:
    """7.3~rc7 is older than 7.3.4."""
    upstream, _, candidate = offer.version.partition("-")[0].partition("~")
    numbers = [int(part) for part in upstream.split(".")]
    return (*numbers, *([-1] if candidate.startswith("rc") else []))


def _age(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def get_kernel(series: str, modules: tuple[str, ...] = MODULES) -> Kernel:
    """The newest of the plain kernels of that series (as "6.12"). Raises UnavailableError."""
    chosen = [one for one in offers() if one.series == series and "-image-amd64" in one.package]
    if not chosen:
        raise UnavailableError(f"no linux-image-amd64 of Linux {series} in Debian's archive")
    return unpacked_kernel(chosen[-1], modules)


def unpacked_kernel(offer: Offer, modules: tuple[str, ...] = MODULES) -> Kernel:
    """Downloaded into the cache, or what is there. Raises UnavailableError."""
    cache = cache_folder()
    folder = cache / "-".join((offer.package, offer.version, *modules))
    with locked(cache):
        if not (cache / "busybox").exists():
            _fill_busybox(cache)
        if not folder.exists():
            _fill_kernel(cache, offer, modules, folder)
    return Kernel((folder / "release").read_text(), folder)


def _fill_busybox(cache: Path) -> None:
    with _unpacked(cache, "busybox-static") as unpacked:
        # last, and atomic: an existing folder is complete
        _one(unpacked, "bin/busybox").rename(cache / "busybox")


def _fill_kernel(cache: Path, offer: Offer, modules: tuple[str, ...], folder: Path) -> None:
    about = _apt(cache, "apt-cache", "show", f"{offer.package}={offer.version}")
    package, release = image_of(about, offer.package)
    image = f"{package}={offer.version}"
    # from 7.2 on an image is several packages, and depends on the others
    parts = [image]
    for part in ("base", "binary", "modules"):
        name = f"linux-{part}-{release}"
        if re.search(rf"\b{re.escape(name)} \(", _apt(cache, "apt-cache", "show", image)):
            parts.append(f"{name}={offer.version}")
    with _unpacked(cache, *parts) as unpacked:
        fresh = unpacked / "fresh"
        (fresh / "modules").mkdir(parents=True)
        for name in ("vmlinuz", "config"):
            _one(unpacked, f"{name}-{release}", f"{release}/{name}").rename(fresh / name)
        for number, (name, content) in enumerate(modules_in_order(unpacked, modules)):
            (fresh / f"modules/{number:02}-{name}.ko").write_bytes(content)
        (fresh / "release").write_text(release)
        fresh.rename(folder)


def _one(unpacked: Path, *ends: str) -> Path:
    """The file whose path ends so: /boot up to 7.1, /usr/lib/modules/RELEASE from 7.2 on."""
    for end in ends:
        for path in unpacked.rglob(Path(end).name):
            if str(path).endswith(end) and path.is_file():
                return path
    raise UnavailableError(f"the package has no {' or '.join(ends)}")


def image_of(stanza: str, package: str) -> tuple[str, str]:
    """The image that a linux-image-FLAVOUR depends on, and its release."""
    flavour = package.removeprefix("linux-image-")
    found = re.search(
        # 6.1.0-56-amd64, 7.3.4+deb13-cloud-amd64
        rf"^Depends: .*?\b(linux-image-(\d[\w.+~]*(?:-\d+)?-{re.escape(flavour)})) \(=",
        stanza,
        re.MULTILINE,
    )
    if not found:
        raise UnavailableError(f"{package} depends on no image of its own")
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
def _unpacked(cache: Path, *packages: str) -> Iterator[Path]:
    """Packages' files, in a folder on the cache's file system that goes afterwards."""
    with tempfile.TemporaryDirectory(dir=cache) as name:
        folder = Path(name)
        _apt(cache, "apt-get", "download", *packages, folder=folder)
        for deb in folder.glob("*.deb"):
            run(["dpkg-deb", "-x", str(deb), str(folder)], cwd=folder)
        yield folder


def ask_archive(*command: str, folder: Path) -> str:
    """What apt says of Debian's archive as it is today, run there. Raises UnavailableError."""
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache):
        if not (cache / "updated").exists() or _age(cache / "updated") > LISTS_SECONDS:
            _update(cache)
        return _apt(cache, *command, folder=folder)


def _update(cache: Path) -> None:
    if not KEYRING.exists():
        raise UnavailableError(f"no {KEYRING}: apt-get install debian-archive-keyring")
    apt = cache / "apt"
    for folder in ("lists/partial", "cache/archives/partial"):
        (apt / folder).mkdir(parents=True, exist_ok=True)
    (apt / "sources.list").write_text(sources())
    (apt / "status").touch()
    # a suite that the archive no longer has is no reason to try none
    _apt(cache, "apt-get", "update")
    (cache / "updated").touch()


def sources(suites: Sequence[str] = SUITES) -> str:
    """A sources.list for these, from the mirrors that this machine itself uses."""
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    mirrors = dict(line.split(" ", 1) for line in listed.splitlines() if " " in line)
    lines = [
        f"deb [arch=amd64 signed-by={KEYRING}] {mirrors['Debian']} {suite} main\n"
        for suite in suites
        if "Debian" in mirrors
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


def boot(
    kernel: Kernel,
    smp: str,
    parts: list[str],
    options: str = "",
    *,
    module: str = "tests.vm.guest",
    devices: Sequence[str] = (),
) -> dict[str, Any]:
    """Boot it with QEMU's `-smp` and these options on its command line, do parts of guest.py.

    module: or of that one instead. devices: more of QEMU's options. Returns what it noted.
    Raises GuestError.
    """
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        console, facts, ramdisk = (folder / f for f in ("console", "facts", "initramfs"))
        console.touch()
        facts.touch()
        init = INIT.replace("@MODULE@", module).replace("@PARTS@", " ".join(parts))
        ramdisk.write_bytes(initramfs(kernel, init))
        has_9p = "CONFIG_9P_FS=" in kernel.config.read_text()
        shares = over_9p() if has_9p else stack.enter_context(virtiofs(folder))
        command = [
            *emulator(kernel, smp, ramdisk, console, options),
            *("-serial", f"file:{facts}"),
            *shares,
            *devices,
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


def over_9p() -> list[str]:
    """This machine's root and the checkout, read-only."""
    return [*share("root", Path("/")), *share("checkout", ROOT)]


@contextlib.contextmanager
def virtiofs(folder: Path) -> Iterator[list[str]]:
    """The same for a kernel without 9p; the guest mounts them read-only."""
    if not VIRTIOFSD.exists():
        raise UnavailableError(f"no {VIRTIOFSD}: apt-get install qemu-system-common")
    options = [
        *("-object", f"memory-backend-memfd,id=memory,size={MEMORY_MIB}M,share=on"),
        *("-numa", "node,memdev=memory"),
    ]
    servers = []
    for tag, path in (("root", Path("/")), ("checkout", ROOT)):
        socket = folder / f"{tag}.socket"
        # of / no process can pivot_root into a namespace of its own
        served = f"source={path},cache=always,sandbox=chroot"
        command = [str(VIRTIOFSD), f"--socket-path={socket}", "-o", served]
        servers.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
        options += ["-chardev", f"socket,id={tag},path={quoted(socket)}"]
        options += ["-device", f"vhost-user-fs-pci,chardev={tag},tag={tag}"]
        while not socket.exists() and servers[-1].poll() is None:
            time.sleep(0.05)
    try:
        yield options
    finally:
        for server in servers:
            server.kill()
            server.wait()


def emulator(
    kernel: Kernel, smp: str, ramdisk: Path, console: Path, options: str = ""
) -> list[str]:
    """The command that boots it, with its console in a file and no other device yet."""
    return [
        *("nice", QEMU, "-accel", ACCELERATOR, "-machine", "q35", "-cpu", CPU),
        *("-smp", smp, "-m", str(MEMORY_MIB), "-nodefaults", "-display", "none"),
        *("-no-reboot", "-kernel", str(kernel.image), "-initrd", str(ramdisk)),
        *("-append", f"console=ttyS0 panic=-1 loglevel=4 {PATIENCE} {options}".rstrip()),
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
