# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from dynstack_probe.errors import UnmeasurableError
from dynstack_probe.kernel import cgroups, host
from dynstack_probe.kernel.features import Features, Root, check_machine


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_worked_example_of_the_series(kernel_root: Path) -> None:
    write(kernel_root, "proc/vmstat", "nr_kernel_stack 18684\nnr_dynamic_stacks_faults 156\n")
    features = Features(Root(kernel_root))
    assert features.dynamic_stacks()
    assert host.kernel_stack_count(features, 16384) == (18684, 4632)


def test_kernel_stack_count_of_a_stock_kernel(kernel_root: Path) -> None:
    write(kernel_root, "proc/vmstat", "nr_free_pages 1\nnr_kernel_stack 1264\nrubbish\n")
    features = Features(Root(kernel_root))
    assert not features.dynamic_stacks()
    assert host.kernel_stack_count(features, 16384) == (1264, 79)
    assert host.kernel_stack_count(features, 32768) == (1264, 39)


def test_kernel_stack_count_unknown(kernel_root: Path) -> None:
    assert host.kernel_stack_count(Features(Root(kernel_root)), 16384) is None


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("none [integrity] confidentiality\n", "integrity"),
        ("none integrity [confidentiality]\n", "confidentiality"),
        ("rubbish", None),
    ],
)
def test_lockdown(kernel_root: Path, text: str, mode: str | None) -> None:
    write(kernel_root, "sys/kernel/security/lockdown", text)
    assert Features(Root(kernel_root)).lockdown() == mode


def test_lockdown_where_the_kernel_has_none(kernel_root: Path) -> None:
    write(kernel_root, "sys/kernel/security/lsm", "capability,yama")
    assert Features(Root(kernel_root)).lockdown() == "none"


@pytest.mark.parametrize(
    ("parameter", "mode"),
    [("lockdown=confidentiality", "confidentiality"), ("quiet", None), ("lockdown=x", None)],
)
def test_lockdown_without_securityfs(kernel_root: Path, parameter: str, mode: str | None) -> None:
    """Then only the boot parameter tells, and that it is off nothing does."""
    write(kernel_root, "proc/cmdline", f"ro {parameter}\n")
    assert Features(Root(kernel_root)).lockdown() == mode
    if mode:
        with pytest.raises(UnmeasurableError, match="lockdown=integrity or less"):
            check_machine(Features(Root(kernel_root)))


def test_config_from_proc_or_boot(kernel_root: Path) -> None:
    assert Features(Root(kernel_root)).built_with("VMAP_STACK") is None
    config = "# CONFIG_KSTACK_ERASE is not set\nCONFIG_VMAP_STACK=y\nCONFIG_X\nCONFIG_NR=4\n"
    write(kernel_root, f"boot/config-{os.uname().release}", config)
    features = Features(Root(kernel_root))
    assert features.built_with("VMAP_STACK") is True
    assert features.built_with("KSTACK_ERASE") is False
    (kernel_root / "proc/config.gz").write_bytes(gzip.compress(b"CONFIG_VMAP_STACK=m\n"))
    assert Features(Root(kernel_root)).built_with("VMAP_STACK") is False
    (kernel_root / "proc/config.gz").write_bytes(b"not gzip")
    assert Features(Root(kernel_root)).built_with("VMAP_STACK") is True


def test_the_last_boot_parameter_counts(kernel_root: Path) -> None:
    write(kernel_root, "proc/cmdline", "quiet a=1 a=2 ab=3\n")
    features = Features(Root(kernel_root))
    assert features.command_line("a") == "2"
    assert features.command_line("b") is None


def test_debug_stack_usage_by_its_counters(kernel_root: Path) -> None:
    assert Features(Root(kernel_root)).debug_stack_usage() is None
    write(kernel_root, "proc/vmstat", "kstack_1k 12\n")
    assert Features(Root(kernel_root)).debug_stack_usage() is True


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz", "Intel Xeon Platinum 8375C"),
        ("AMD EPYC 7763 64-Core Processor", "AMD EPYC 7763"),
        ("AMD EPYC", "AMD EPYC"),
    ],
)
def test_cpu_model(kernel_root: Path, line: str, name: str) -> None:
    write(kernel_root, "proc/cpuinfo", f"processor\t: 0\nmodel name\t: {line}\n")
    assert host.cpu_model(Root(kernel_root)) == name


@pytest.mark.parametrize(("text", "count"), [("0-1\n", 2), ("0\n", 1), ("0-3,8-127\n", 128)])
def test_possible_cpus(kernel_root: Path, text: str, count: int) -> None:
    write(kernel_root, "sys/devices/system/cpu/possible", text)
    assert host.possible_cpus(Root(kernel_root)) == count


def test_cgroup_mount_point(kernel_root: Path) -> None:
    write(
        kernel_root,
        "proc/self/mountinfo",
        "30 23 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
        "31 23 0:27 / /sys/fs/my\\040group rw shared:4 - cgroup2 cgroup2 rw\n",
    )
    assert cgroups.hierarchy(Root(kernel_root)).mount == Path("/sys/fs/my group")


def test_where_only_version_1_is_used_a_controller_groups(kernel_root: Path) -> None:
    """A cgroup2 mount in which nobody made a group says nothing of who belongs together."""
    unused = kernel_root / "unified"
    unused.mkdir()
    v1 = "30 23 0:27 / /sys/fs/cgroup/{0} rw - cgroup cgroup rw,{0}\n"
    lines = v1.format("cpu") + v1.format("pids") + v1.format("memory")
    v2 = f"31 23 0:28 / {unused} rw - cgroup2 cgroup2 rw\n"
    mounts = kernel_root / "proc/self/mountinfo"
    mounts.write_text(lines + v2)
    expected = cgroups.Hierarchy(Path("/sys/fs/cgroup/memory"), "memory")
    assert cgroups.hierarchy(Root(kernel_root)) == expected
    (unused / "system.slice").mkdir()
    assert cgroups.hierarchy(Root(kernel_root)) == cgroups.Hierarchy(unused, "")
    mounts.write_text(v1.format("cpu"))
    assert cgroups.hierarchy(Root(kernel_root)) == cgroups.Hierarchy(None, "")


def test_cgroup_paths(tmp_path: Path) -> None:
    inner = tmp_path / "a.slice" / "b\x1b.scope"
    inner.mkdir(parents=True)
    ids = {tmp_path.stat().st_ino, inner.stat().st_ino, 1 << 60}
    assert cgroups.paths_by_id(ids, tmp_path) == {
        tmp_path.stat().st_ino: "/",
        inner.stat().st_ino: "/a.slice/b\x1b.scope",
    }
