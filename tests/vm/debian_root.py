# SPDX-License-Identifier: GPL-2.0-or-later
"""A Debian 12 with systemd as PID 1, in an emulated machine, and a way to ask things of it.

Its root is made by mmdebstrap, once, and holds what a package depends on but not the
package, nor any source for apt: installed there, it must find all that it names. The root is
kept in machine.py's cache, under a name that changes with what goes into it; each machine
writes to a copy that goes with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.vm.machine import (
    BOOT_TIMEOUT_SECONDS,
    QEMU,
    GuestError,
    Kernel,
    UnavailableError,
    cache_folder,
    emulator,
    failure,
    initramfs,
    locked,
    quoted,
    run,
    share,
    sources,
)

SUITE = "bookworm"
# Beside apt itself and what the package depends on.
PACKAGES = ("systemd-sysv", "udev", "dbus", "bpftool")
# ext4 needs crc32c, and does not say so.
MODULES = ("virtio_pci", "virtio_blk", "crc32c_generic", "ext4", "virtio_net", "9pnet_virtio", "9p")
IMAGE_SIZE = "1G"
SMP = "1"
# What QEMU's user network expects its one guest to be.
ADDRESS = "10.0.2.15"
FORWARDER_PORT = 10017
SHARED = "/media/host"
ANSWER_TIMEOUT_SECONDS = 300

# The kernel's configuration is found in /boot, as on Debian.
INIT = f"""\
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*; do insmod $module; done
mount -t ext4 /dev/vda /mnt || {{ echo "guest: no root"; poweroff -f; }}
cp /boot/* /mnt/boot
mkdir -p /mnt{SHARED}
mount -t 9p -o trans=virtio,version=9p2000.L,ro host /mnt{SHARED} ||
    {{ echo "guest: no 9p"; poweroff -f; }}
mount --move /dev /mnt/dev
umount /proc /sys
exec switch_root /mnt /sbin/init
"""

# A line of JSON is a command, the answer is another one. Not over the network: whoever
# has an account on the host may connect to a port.
AGENT = """\
#!/usr/bin/python3
import json, os, subprocess, tty

port = open("/dev/ttyS1", "r+b", buffering=0)
tty.setraw(port)
answer = {"up": True}
while True:
    left = json.dumps(answer).encode() + b"\\n"
    while left:
        left = left[port.write(left) or 0:]
    try:
        done = subprocess.run(json.loads(port.readline()), capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, errors="replace")
        answer = {"code": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
    except (OSError, ValueError) as error:
        answer = {"code": 127, "stdout": "", "stderr": str(error)}
"""
AGENT_SERVICE = """\
[Service]
Environment=LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin
ExecStart=/usr/local/sbin/agent
"""

NETWORK = f"""\
[Match]
Type=ether

[Network]
Address={ADDRESS}/24
LinkLocalAddressing=no
IPv6AcceptRA=no
"""

# QEMU's forwarded port arrives at the guest's network card; the daemon, as shipped,
# listens on the guest's loopback.
FORWARDER_SOCKET = f"""\
[Socket]
ListenStream={ADDRESS}:{FORWARDER_PORT}
FreeBind=yes
"""
FORWARDER_SERVICE = """\
[Service]
ExecStart=/lib/systemd/systemd-socket-proxyd 127.0.0.1:10016
"""

UNITS = "etc/systemd/system"
FILES = {
    # its presence avoids first-boot setup
    "etc/machine-id": "d5a0d5a0d5a0d5a0d5a0d5a0d5a0d5a0\n",
    "etc/hostname": "guest\n",
    "etc/systemd/network/ether.network": NETWORK,
    "usr/local/sbin/agent": AGENT,
    f"{UNITS}/agent.service": AGENT_SERVICE,
    f"{UNITS}/forwarder.socket": FORWARDER_SOCKET,
    f"{UNITS}/forwarder.service": FORWARDER_SERVICE,
}
LINKS = {
    f"{UNITS}/multi-user.target.wants/agent.service": f"/{UNITS}/agent.service",
    f"{UNITS}/sockets.target.wants/forwarder.socket": f"/{UNITS}/forwarder.socket",
    f"{UNITS}/multi-user.target.wants/systemd-networkd.service": (
        "/lib/systemd/system/systemd-networkd.service"
    ),
    # they would take apt's lock at any time
    f"{UNITS}/apt-daily.timer": "/dev/null",
    f"{UNITS}/apt-daily-upgrade.timer": "/dev/null",
}


class Answer(NamedTuple):
    """How a command in the guest ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def said(self) -> str:
        return self.stdout + self.stderr


class Guest:
    """A booted machine."""

    def __init__(
        self, port: int, connection: socket.socket, why: Callable[[str], GuestError]
    ) -> None:
        """`port` on this machine's loopback leads to the daemon's in the guest.

        `why` makes what is raised when the guest does not answer.
        """
        self.url = f"http://127.0.0.1:{port}"
        self._connection = connection
        self._why = why
        self._stream = connection.makefile("rwb")

    def ask(self, *command: str, timeout: float = ANSWER_TIMEOUT_SECONDS) -> Answer:
        """Run a command there, as root. Raises GuestError if no answer comes."""
        line = json.dumps(command).encode() + b"\n"
        return Answer(**json.loads(self._exchange(line, timeout)))

    def tell(self, *command: str) -> str:
        """What a command there prints. Raises GuestError if it fails."""
        answer = self.ask(*command)
        if answer.code:
            raise GuestError(f"in the guest {' '.join(command)} ended with {answer}")
        return answer.stdout

    def wait_until_up(self) -> None:
        """Until its agent runs. Raises GuestError."""
        self._exchange(b"", BOOT_TIMEOUT_SECONDS)

    def _exchange(self, request: bytes, timeout: float) -> bytes:
        """Send this, return the next line from there."""
        self._connection.settimeout(timeout)
        try:
            self._stream.write(request)
            self._stream.flush()
            answer = self._stream.readline()
        except OSError as error:
            raise self._why(f"does not answer {request!r}: {error}") from error
        if not answer:
            raise self._why(f"ended before it answered {request!r}")
        return answer


def depends(deb: Path) -> list[str]:
    """The packages that a package depends on, without their versions."""
    field = run(["dpkg-deb", "--field", str(deb), "Depends"], cwd=deb.parent)
    names = (entry.split()[0].partition(":")[0] for entry in field.split(","))  # python3:any
    return list(dict.fromkeys(names))


def get_root(packages: list[str]) -> Path:
    """An ext4 image of a Debian that has these packages. Raises UnavailableError."""
    if os.geteuid():
        raise UnavailableError("mmdebstrap must be root to make a Debian: sudo make vm-test")
    for tool, package in (("mmdebstrap", "mmdebstrap"), ("mke2fs", "e2fsprogs")):
        if shutil.which(tool) is None:
            raise UnavailableError(f"no {tool} here: apt-get install {package}")
    ingredients = json.dumps([SUITE, PACKAGES, packages, FILES, LINKS, IMAGE_SIZE])
    cache = cache_folder() / "debian"
    cache.mkdir(parents=True, exist_ok=True)
    image = cache / f"{hashlib.sha256(ingredients.encode()).hexdigest()[:16]}.ext4"
    with locked(cache):
        if not image.exists():
            _make(image, packages)
    return image


def _make(image: Path, packages: list[str]) -> None:
    with tempfile.TemporaryDirectory(dir=image.parent) as name:
        folder = Path(name)
        root, unfinished, listed = (folder / f for f in ("root", "image", "sources.list"))
        listed.write_text(sources([SUITE]))
        included = ",".join((*PACKAGES, *packages))
        run(
            [
                *("mmdebstrap", "--quiet", "--variant=apt", "--architectures=amd64"),
                *("--dpkgopt=force-unsafe-io", f"--include={included}"),
                *(SUITE, str(root), str(listed)),
            ],
            cwd=folder,
        )
        _furnish(root)
        run(["mke2fs", "-q", "-t", "ext4", "-d", str(root), str(unfinished), IMAGE_SIZE], folder)
        for outdated in image.parent.glob("*.ext4"):
            outdated.unlink()
        # last, and atomic: an existing image is complete
        unfinished.rename(image)


def _furnish(root: Path) -> None:
    for listed in (root / "etc/apt").rglob("*.list"):
        listed.unlink()
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "usr/local/sbin/agent").chmod(0o755)
    for name, target in LINKS.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(target)


@contextlib.contextmanager
def booted(kernel: Kernel, image: Path, shared: Path) -> Iterator[Guest]:
    """The machine, with a folder of this one in SHARED. It is switched off at the end.

    Raises GuestError if it does not boot.
    """
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        console, ramdisk, line = (folder / f for f in ("console", "initramfs", "line"))
        ramdisk.write_bytes(initramfs(kernel, INIT))
        console.touch()
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(line))
        listener.listen()
        port = free_port()
        devices = [
            *("-serial", f"unix:{quoted(line)}"),
            *("-drive", f"file={quoted(image)},format=raw,if=virtio,snapshot=on"),
            *("-nic", f"user,model=virtio,restrict=on,hostfwd={_forward(port)}"),
            *share("host", shared),
        ]
        machine = stack.enter_context(
            _started([*emulator(kernel, SMP, ramdisk, console), *devices])
        )
        connection = stack.enter_context(_accepted(listener, machine))
        guest = Guest(port, connection, lambda why: failure(kernel, SMP, why, console))
        guest.wait_until_up()
        yield guest


def free_port() -> int:
    """An unused port on this machine's loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number


def _forward(port: int) -> str:
    return f"tcp:127.0.0.1:{port}-{ADDRESS}:{FORWARDER_PORT}"


@contextlib.contextmanager
def _started(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    # it must not outlive us if we are killed
    tied = ["setpriv", "--pdeathsig", "KILL", *command]
    with subprocess.Popen(
        tied, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as machine:
        try:
            yield machine
        finally:
            machine.kill()


def _accepted(listener: socket.socket, machine: subprocess.Popen[str]) -> socket.socket:
    """QEMU's end of the serial line. Raises GuestError."""
    listener.settimeout(1)
    while machine.poll() is None:
        with contextlib.suppress(TimeoutError):
            return listener.accept()[0]
    assert machine.stderr is not None
    raise GuestError(f"{QEMU} could not run: {machine.stderr.read().strip()}")
