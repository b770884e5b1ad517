# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dynstack_probe.serve import sd_notify


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """What systemd would listen on."""
    if request.param == "path":
        address = name = str(tmp_path / "notify")
    else:
        name = f"@dynstack-test-{os.getpid()}"
        address = "\0" + name[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address)
        listener.settimeout(2)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield listener


@pytest.mark.parametrize(
    ("call", "datagram"),
    [
        (sd_notify.ready, "READY=1"),
        (lambda: sd_notify.ready("serving"), "READY=1\nSTATUS=serving"),
        (lambda: sd_notify.status("97 stacks\nREADY=1"), "STATUS=97 stacks READY=1"),
        (sd_notify.watchdog, "WATCHDOG=1"),
        (sd_notify.stopping, "STOPPING=1"),
    ],
)
def test_tells_systemd(manager: socket.socket, call: Callable[[], bool], datagram: str) -> None:
    assert call()
    assert manager.recv(1000).decode() == datagram


def test_reloading_says_when(manager: socket.socket) -> None:
    before = time.monotonic()
    assert sd_notify.reloading()
    reloading, when = manager.recv(1000).decode().split("\n")
    assert reloading == "RELOADING=1"
    name, _, microseconds = when.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before - 1e-3 <= int(microseconds) / 1e6 <= time.monotonic()


@pytest.mark.parametrize("address", [None, "", "/nowhere/notify", "@nobody-there", "vsock:2:1"])
def test_nobody_there(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not sd_notify.ready()


def test_a_manager_that_reads_nothing(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sd_notify, "SEND_SECONDS", 0.05)
    sent = 0
    while sd_notify.watchdog():
        sent += 1
        assert sent < 10_000
    assert sent > 0


@pytest.mark.parametrize(
    ("microseconds", "process", "interval"),
    [
        ("30000000", None, 15.0),
        ("30000000", "us", 15.0),
        ("30000000", "1", None),
        ("0", None, None),
        ("-5", None, None),
        ("soon", None, None),
        (None, None, None),
    ],
)
def test_watchdog_interval(
    microseconds: str | None,
    process: str | None,
    interval: float | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (("WATCHDOG_USEC", microseconds), ("WATCHDOG_PID", process)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, str(os.getpid()) if value == "us" else value)
    assert sd_notify.watchdog_interval_seconds() == interval
