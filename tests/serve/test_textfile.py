# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import os
import resource
import signal
import threading
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge

from dynstack_probe.errors import UsageError, WriteError
from dynstack_probe.serve import textfile


@pytest.fixture
def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    Gauge("dynstack_tasks", "Tasks.", ["kind"], registry=registry).labels("user").set(97)
    return registry


def test_writes_the_classic_format(tmp_path: Path, registry: CollectorRegistry) -> None:
    path = tmp_path / "dynstack.prom"
    umask = os.umask(0o077)
    try:
        textfile.write(path, registry)
    finally:
        os.umask(umask)
    assert 'dynstack_tasks{kind="user"} 97.0\n' in path.read_text()
    assert "# EOF" not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_never_sees_half_of_it(tmp_path: Path) -> None:
    path = tmp_path / "dynstack.prom"
    registry = CollectorRegistry()
    gauge = Gauge("dynstack_tasks", "Tasks.", ["n"], registry=registry)
    for number in range(500):
        gauge.labels(str(number)).set(1)
    textfile.write(path, registry)
    whole = path.read_bytes()
    done = threading.Event()
    torn: list[bytes] = []

    def read() -> None:
        while not done.is_set():
            if (content := path.read_bytes()) != whole:
                torn.append(content)

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(50):
        textfile.write(path, registry)
    done.set()
    reader.join()
    assert not torn


def test_a_leftover_or_a_trap_in_the_way(tmp_path: Path, registry: CollectorRegistry) -> None:
    victim = tmp_path / "victim"
    victim.write_text("keep me")
    path = tmp_path / "dynstack.prom"
    (tmp_path / f".dynstack.prom.{threading.get_native_id()}").symlink_to(victim)
    textfile.write(path, registry)
    assert victim.read_text() == "keep me"
    assert not path.is_symlink()


@pytest.mark.parametrize("name", ["dynstack.txt", "dynstack", ".prom", "dynstack.prom.tmp"])
def test_must_end_in_prom(name: str, tmp_path: Path, registry: CollectorRegistry) -> None:
    with pytest.raises(UsageError, match=r"must end in \.prom"):
        textfile.write(tmp_path / name, registry)


def test_says_why_it_cant_be_written(tmp_path: Path, registry: CollectorRegistry) -> None:
    with pytest.raises(UsageError, match="there is no directory"):
        textfile.write(tmp_path / "none" / "a.prom", registry)
    (tmp_path / "folder.prom").mkdir()
    with pytest.raises(UsageError, match="is a directory"):
        textfile.write(tmp_path / "folder.prom", registry)
    # root has the permission, and then there can be no such file
    refused = WriteError if os.geteuid() == 0 else UsageError
    with pytest.raises(refused, match=r"can't write /proc/a\.prom"):
        textfile.write(Path("/proc/a.prom"), registry)


def test_a_full_disk_leaves_the_old_file(registry: CollectorRegistry, tmp_path: Path) -> None:
    path = tmp_path / "dynstack.prom"
    textfile.write(path, registry)
    before = path.read_bytes()
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, old[1]))
    try:
        with pytest.raises(WriteError, match=r"can't write .*File too large"):
            textfile.write(path, registry)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
