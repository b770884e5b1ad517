# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything that a measurement needs from this host, checked one by one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from dynstack_probe.errors import NotPermittedError, ProbeError, UnmeasurableError
from dynstack_probe.kernel import capabilities
from dynstack_probe.kernel.btf import Btf
from dynstack_probe.kernel.features import Features
from dynstack_probe.kernel.kallsyms import read_symbols
from dynstack_probe.kernel.offsets import probe_macros
from dynstack_probe.kernel.privileges import may_iterate_without_privileges
from dynstack_probe.loader import INSTALL_BCC, Loader
from dynstack_probe.measure.call_paths import load_call_paths
from dynstack_probe.measure.faults import caveats, load_faults
from dynstack_probe.measure.lifecycle import NO_UNPRIVILEGED_ITERATORS, Sampler, load_lifecycle
from dynstack_probe.measure.page_faults import count_page_faults
from dynstack_probe.measure.stack_scan import take_frame
from dynstack_probe.model.check import Check, Status

NOT_TRIED = "not tried: see above"


def exit_code(checks: list[Check]) -> int:
    """The exit code of `estimate`: 3 if anything is missing, 4 if only permission is, else 0."""
    codes = {c.exit_code for c in checks if c.status is Status.MISSING and not c.is_command}
    if not codes:
        return 0
    permission = NotPermittedError.exit_code
    return permission if codes == {permission} else UnmeasurableError.exit_code


def command_exit_codes(checks: list[Check]) -> dict[str, int]:
    """The exit code of each command here; of one that was not tried, that of `estimate`."""
    code = exit_code(checks)
    codes = {"estimate": code}
    for check in checks:
        if check.is_command:
            refused = check.exit_code if check.status is Status.MISSING else 0
            codes[check.name] = code if check.found == NOT_TRIED else refused
    return codes


def examine(btf_path: Path) -> list[Check]:
    """All checks, in the order in which a measurement would fail."""
    features = Features()
    checks = [_architecture(), *_btf_checks(btf_path, features), _lockdown(features)]
    checks += [*_capabilities(), _bcc(), _pid_namespace(features)]
    checks += [_debug_stack_usage(features), _dynamic_stacks(features)]
    code = exit_code(checks)
    checks += _scan(btf_path, code)
    return [*checks, *(_command(name, trial, btf_path, code) for name, trial in TRIALS)]


def _architecture() -> Check:
    machine = os.uname().machine
    if machine == "x86_64":
        return Check("architecture", Status.OK, machine)
    return Check(
        "architecture",
        Status.MISSING,
        f"{machine}: only x86-64 stacks are supported",
        "measure on an x86-64 machine",
    )


def _btf_checks(path: Path, features: Features) -> Iterator[Check]:
    release = os.uname().release
    try:
        with Btf(path) as btf:
            yield _kernel(btf, release)
            vmap = btf.find("task_struct.stack_vm_area") is not None
            yield Check(
                "VMAP_STACK",
                Status.OK if vmap else Status.MISSING,
                "each stack is its own vmalloc area" if vmap else "stacks are not vmalloc'ed",
                "" if vmap else "run a kernel built with CONFIG_VMAP_STACK=y",
            )
            yield _kstack_erase(features.kstack_erase(btf))
            yield _random_offset(features.random_offset(btf))
    except UnmeasurableError as error:
        yield Check(
            "kernel and BTF",
            Status.MISSING,
            str(error),
            "run a kernel with CONFIG_DEBUG_INFO_BTF=y and pass its own file to --btf",
        )


def _kernel(btf: Btf, release: str) -> Check:
    try:
        macros = probe_macros(btf)
    except UnmeasurableError as error:
        return Check("kernel and BTF", Status.MISSING, str(error), "run Linux 5.8 or later")
    if "RQ_IDLE" not in macros or not btf.has_iterator("bpf_iter__bpf_map_elem"):
        return Check(
            "kernel and BTF",
            Status.NOTE,
            f"Linux {release}; its idle tasks can't be found: their stacks count as missed",
        )
    return Check("kernel and BTF", Status.OK, f"Linux {release}, types in {btf.path}")


def _kstack_erase(active: bool | None) -> Check:
    if active is None:
        return Check("KSTACK_ERASE", Status.OK, "not built in: marks are kept")
    if not active:
        found = "switched off: marks of tasks that ran before are lower bounds"
        return Check("KSTACK_ERASE", Status.NOTE, found)
    return Check(
        "KSTACK_ERASE",
        Status.NOTE,
        "on: a user task's stack is overwritten at each return to user mode, so its"
        " mark is a lower bound and the saving overestimated",
        "sysctl kernel.stack_erasing=0 before the tasks start, or a kernel without it",
    )


def _random_offset(active: bool | None) -> Check:
    name = "RANDOMIZE_KSTACK_OFFSET"
    if active is None:
        return Check(name, Status.NOTE, "unknown: this kernel does not show its configuration")
    if active:
        found = "on: system calls begin up to 1 KiB deeper, which marks include"
        return Check(name, Status.NOTE, found)
    return Check(name, Status.OK, "off")


def _lockdown(features: Features) -> Check:
    mode = features.lockdown()
    if mode == "confidentiality":
        return Check(
            "lockdown",
            Status.MISSING,
            "confidentiality: BPF may not read kernel memory",
            "boot with lockdown=integrity or less",
        )
    if mode is None:
        found = "unknown: securityfs is not mounted and no boot parameter sets it"
        return Check("lockdown", Status.NOTE, found)
    return Check("lockdown", Status.OK, "not in use" if mode == "none" else mode)


def _capabilities() -> Iterator[Check]:
    mask = capabilities.effective()
    missing = capabilities.missing_for_bpf(mask)
    for name, bit in capabilities.CAPABILITIES.items():
        if name in missing:
            hint = f"run with sudo, or with AmbientCapabilities={name} under systemd"
            yield Check(
                name, Status.MISSING, "not held", hint, exit_code=NotPermittedError.exit_code
            )
        else:
            held = mask >> bit & 1
            yield Check(name, Status.OK, "held" if held else "implied by CAP_SYS_ADMIN")


def _bcc() -> Check:
    try:
        with Loader(check_capabilities=False) as loader:
            bcc = loader.find_bcc()
    except ProbeError as error:
        return Check("bcc", Status.MISSING, str(error), INSTALL_BCC)
    return Check("bcc", Status.OK, f"{bcc.version} under {bcc.python} ({bcc.path})")


def _pid_namespace(features: Features) -> Check:
    if features.in_initial_pid_namespace() is False:
        return Check(
            "PID namespace",
            Status.NOTE,
            "a container's: only its own tasks are visible, the kernel counts the host's",
            "run on the host, or with the host's PID namespace (docker run --pid=host)",
        )
    return Check("PID namespace", Status.OK, "the host's: every task is visible")


def _debug_stack_usage(features: Features) -> Check:
    state = {
        True: "on: sysrq-t can confirm marks (not with KSTACK_ERASE)",
        False: "off",
        None: "unknown",
    }
    return Check("DEBUG_STACK_USAGE", Status.OK, state[features.debug_stack_usage()])


def _dynamic_stacks(features: Features) -> Check:
    if features.dynamic_stacks():
        found = "this kernel has them: its own counters are shown beside the estimate"
        return Check("dynamic stacks", Status.NOTE, found)
    return Check("dynamic stacks", Status.OK, "not in this kernel: the estimate is modelled")


def _scan(btf_path: Path, code: int) -> Iterator[Check]:
    """Tested by doing: only a real scan shows that everything works."""
    name = "estimate"
    if code:
        yield Check("THREAD_SIZE", Status.NOTE, "not measured: see above")
        yield Check(name, Status.NOTE, NOT_TRIED)
        return
    try:
        frame = take_frame(btf_path)
    except ProbeError as error:
        yield Check(name, Status.MISSING, str(error), exit_code=error.exit_code)
        return
    coverage = frame.coverage
    size = f"{frame.host.thread_size_bytes} bytes, measured on {coverage.read} stacks"
    yield Check("THREAD_SIZE", Status.OK, size)
    about = "" if coverage.refreshed else " (about: the kernel's count is approximate here)"
    yield Check(
        name,
        Status.OK if not coverage.missed else Status.NOTE,
        f"works; read {coverage.read} stacks, missed {coverage.missed}{about}"
        f" in {frame.cost.scan_seconds * 1000:.1f} ms",
    )


def _command(name: str, trial: Callable[[Path], str], btf_path: Path, code: int) -> Check:
    """Whether this kernel accepts a command's programs; a caveat makes it a note."""
    if code:
        return Check(name, Status.NOTE, NOT_TRIED, is_command=True)
    try:
        caveat = trial(btf_path)
    except ProbeError as error:
        code = error.exit_code
        return Check(name, Status.MISSING, str(error), exit_code=code, is_command=True)
    status = Status.NOTE if caveat else Status.OK
    return Check(name, status, (caveat and f"works, but: {caveat}") or "works", is_command=True)


def _try_series(btf_path: Path) -> str:
    with Loader() as loader, load_lifecycle(loader, btf_path=btf_path) as probe:
        with Sampler(probe) as sampler:
            sampler.take()
        return ""


def _try_serve(btf_path: Path) -> str:
    with Loader() as loader, load_lifecycle(loader, btf_path=btf_path) as probe:
        if not may_iterate_without_privileges(probe.links.values()):
            raise UnmeasurableError(NO_UNPRIVILEGED_ITERATORS)
    return _try_page_faults()


def _try_page_faults() -> str:
    try:
        with Loader() as loader:
            count_page_faults(loader).close()
    except ProbeError as error:
        return str(error)
    return ""


def _try_cost(btf_path: Path) -> str:
    """What `cost` can do without is only a caveat: page faults, and contexts."""
    _try_series(btf_path)
    missed = [_try_page_faults()]
    try:
        with Loader() as loader:
            load_call_paths(loader, btf_path=btf_path).close()
    except ProbeError as error:
        missed.append(f"contexts can't be sampled: {error}")
    return "; ".join(filter(None, missed))


def _try_faults(btf_path: Path) -> str:
    with Loader() as loader, load_faults(loader, btf_path=btf_path) as probe:
        return " ".join(caveats(probe))


def _try_call_paths(btf_path: Path) -> str:
    with Loader() as loader:
        read_symbols()
        load_call_paths(loader, btf_path=btf_path).close()
    return ""


# Commands by what they load; `estimate` and `policies` only scan.
TRIALS: tuple[tuple[str, Callable[[Path], str]], ...] = (
    ("record, report, top", _try_series),
    ("cost", _try_cost),
    ("serve", _try_serve),
    ("faults", _try_faults),
    ("faults --flamegraph", _try_call_paths),
)
