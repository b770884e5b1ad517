# SPDX-License-Identifier: GPL-2.0-or-later
"""A child that is missing, dies, hangs or talks rubbish: one clear error each."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from dynstack_probe.errors import NotPermittedError, ProbeError, UnmeasurableError
from dynstack_probe.kernel import capabilities
from dynstack_probe.loader import PYTHON_VARIABLE, TIMEOUT_VARIABLE, Iterator, Loader


@pytest.fixture
def fake_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A path to be filled with what stands for the child's interpreter."""
    path = tmp_path / "python"
    monkeypatch.setenv(PYTHON_VARIABLE, str(path))
    return path


def becomes(path: Path, body: str) -> None:
    """`path` runs this Python; `connection` is the child's end of the socket."""
    path.write_text(
        f"#!{sys.executable} -I\nimport json, os, socket, sys, time\n"
        "connection = socket.socket(fileno=int(sys.argv[3]))\n" + body
    )
    path.chmod(0o755)


def load() -> None:
    with Loader(check_capabilities=False) as loader:
        loader.load(Path("x.c"), {}, [Iterator("tasks", "bpf_iter__task")]).close()


def open_fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208


def test_interpreter_missing(fake_python: Path) -> None:
    with pytest.raises(ProbeError, match=r"can't start the BPF loader .*No such file"):
        load()


def test_child_dies(fake_python: Path) -> None:
    becomes(fake_python, "print('LLVM is\\x1b[31m unhappy'); sys.exit(7)")
    with pytest.raises(ProbeError, match="exited with code 7") as caught:
        load()
    assert caught.value.details == "LLVM is?[31m unhappy"


def test_child_is_killed(fake_python: Path) -> None:
    becomes(fake_python, "connection.recv(99999); os.kill(os.getpid(), 9)")
    with pytest.raises(ProbeError, match="killed by signal 9"):
        load()


def test_child_hangs(fake_python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TIMEOUT_VARIABLE, "0.3")
    becomes(fake_python, "time.sleep(60)")
    with pytest.raises(ProbeError, match=r"did not answer within 0.3 s"):
        load()


@pytest.mark.parametrize(
    "message",
    [
        b"\xff\x00rubbish",
        b"[1, 2]",
        b"null",
        b"{}",
        b'{"seconds": {"ready_at": 1}, "bcc": {}}',
        b"x" * 100_000,
        b"[" * 60_000,
    ],
)
def test_child_sends_rubbish(fake_python: Path, message: bytes) -> None:
    becomes(fake_python, f"connection.send({message[:1]!r} * {len(message)})\n")
    if len(set(message)) > 1:
        becomes(fake_python, f"connection.send({message!r})\n")
    with pytest.raises(ProbeError, match="sent a malformed answer"):
        load()


def test_rubbish_leaves_no_descriptor_open(fake_python: Path) -> None:
    becomes(fake_python, "socket.send_fds(connection, [b'rubbish'], [0, 0, 0])\n")
    before = open_fds()
    with pytest.raises(ProbeError, match="sent a malformed answer"):
        load()
    assert open_fds() == before


def test_the_figures_of_an_answer_are_checked(fake_python: Path) -> None:
    answer = {"bcc": {}, "seconds": {"ready_at": "soon", "compile": [], "load": 0}}
    becomes(
        fake_python, f"socket.send_fds(connection, [json.dumps({answer!r}).encode()], [0, 0])\n"
    )
    before = open_fds()
    with pytest.raises(ProbeError, match="sent a malformed answer"):
        load()
    assert open_fds() == before


def test_no_bcc_anywhere(fake_python: Path) -> None:
    becomes(fake_python, 'connection.send(b\'{"error": "no-bcc", "message": "has none"}\')')
    with pytest.raises(UnmeasurableError, match=r"has none.*apt install python3-bpfcc"):
        load()


def test_the_unrelated_bcc_of_pypi_is_recognised(tmp_path: Path, fake_python: Path) -> None:
    """The real child.py, in an environment whose bcc is another package."""
    (tmp_path / "bcc.py").write_text("def lattice(): pass\n")
    fake_python.write_text(
        f'#!/bin/sh\nshift\nPYTHONPATH={tmp_path} exec {sys.executable} -s "$@"\n'
    )
    fake_python.chmod(0o755)
    with pytest.raises(UnmeasurableError, match=r"bcc\.py\) is the unrelated package of PyPI"):
        load()


def test_the_next_interpreter_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_python: Path
) -> None:
    good = tmp_path / "good"
    becomes(fake_python, 'connection.send(b\'{"error": "no-bcc", "message": "none"}\')')
    becomes(good, 'connection.send(b\'{"bcc": {"version": "1", "path": "p"}}\')')
    monkeypatch.setattr(
        "dynstack_probe.loader.python_candidates", lambda: [str(fake_python), str(good)]
    )
    with Loader(check_capabilities=False) as loader:
        assert loader.find_bcc().python == str(good)


def test_missing_capability_is_named_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(capabilities, "effective", lambda: 1 << 39)
    with pytest.raises(NotPermittedError, match="CAP_PERFMON missing"):
        Loader()


def test_refused_although_capable(
    tmp_path: Path, fake_python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capabilities, "effective", lambda: 1 << 21)
    (tmp_path / "uid_map").write_text("         0       1000          1\n")
    monkeypatch.setattr(capabilities, "UID_MAP", tmp_path / "uid_map")
    becomes(fake_python, 'connection.send(b\'{"error": "permission", "message": "EPERM"}\')')
    with pytest.raises(NotPermittedError, match="in a user namespace"):
        load()
