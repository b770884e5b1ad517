# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/support.md, made from what each kernel of the matrix did."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, NamedTuple

from tests import ROOT
from tests.vm.machine import Offer

PAGE = ROOT / "docs/support.md"
COMMANDS = ("estimate", "policies", "record", "top", "faults", "serve")


class Seen(NamedTuple):
    """One case of the matrix."""

    kernel: str
    how: str
    offer: Offer | None
    facts: dict[str, Any]
    trouble: str


SEEN: list[Seen] = []


def note(kernel: str, how: str, offer: Offer | None, facts: dict[str, Any], trouble: str) -> None:
    SEEN.append(Seen(kernel, how, offer, facts, trouble))


def outcome(part: str, facts: dict[str, Any]) -> tuple[int, list[str]]:
    """A command's exit code, and what it said on stderr."""
    if part == "serve":
        ended = facts["exit_code"] if "after" in facts else facts.get("exit_code", 3)
        return ended, facts["said"].splitlines()
    run = facts["run"] if part == "estimate" else facts
    return run["exit_code"], run["stderr"].splitlines()


def refusal(part: str, facts: dict[str, Any]) -> str:
    """Why a kernel does not let a command run; empty if it does."""
    if part in ("hotplug", "killed"):
        said = facts.get("said", "")
        return "" if not said or "serving http" in said else said.strip()
    if part not in COMMANDS:
        return ""
    code, lines = outcome(part, facts)
    return lines[0].removeprefix("dynstack-probe: ") if code == 3 and lines else ""


def _cell(seen: Seen, part: str) -> str:
    if part not in seen.facts:
        return ""
    code, _ = outcome(part, seen.facts[part])
    return {0: "works", 3: "refused"}.get(code, f"fails ({code})")


def _coverage(seen: Seen) -> str:
    run = seen.facts.get("estimate", {}).get("run", {})
    if run.get("exit_code") != 0:
        return ""
    coverage = json.loads(run["stdout"])["coverage"]
    return f"{coverage['read']} of {coverage['kernel_stacks']}"


def _marks(seen: Seen) -> str:
    marks = seen.facts.get("marks")
    if not marks or marks["compared"] is None:
        return ""
    return f"{marks['compared'] - len(marks['different'])} of {marks['compared']}"


def table() -> list[str]:
    """A row a case."""
    lines = [
        "| kernel | package | booted | " + " | ".join(COMMANDS) + " | stacks read | marks equal |",
        "|---" * (5 + len(COMMANDS)) + "|",
    ]
    for seen in SEEN:
        release = seen.facts.get("kernel_release", seen.trouble)
        package = f"{seen.offer.package} ({seen.offer.suite})" if seen.offer else ""
        cells = [release, package, seen.how or "as it is", *(_cell(seen, c) for c in COMMANDS)]
        lines.append(f"| {' | '.join([*cells, _coverage(seen), _marks(seen)])} |")
    return lines


def refusals() -> list[str]:
    """Each sentence once, with the kernels that say it."""
    said: dict[str, list[str]] = {}
    for seen in SEEN:
        for part in COMMANDS:
            why = refusal(part, seen.facts[part]) if part in seen.facts else ""
            if why:
                where = f"{seen.facts['kernel_release']}{f', {seen.how}' if seen.how else ''}"
                said.setdefault(why, []).append(f"`{part}` on {where}")
    return [f"- {'; '.join(dict.fromkeys(where))}: {why}" for why, where in said.items()]


HEAD = """# Which kernels it works on

Made by `make vm-test` on {day}: Debian's own kernels, each as its package is, in QEMU under
software emulation. Nothing here is claimed for a kernel that did not run it. *works*: the
command did what it says, and its figures were checked: {sleepers} known threads found, {forks}
forks and their exits counted exactly, stacks read against the kernel's own count, marks equal
to those in /proc/kcore, nothing left in the kernel after kill -9, no warning in the kernel's
log. An empty cell: not part of that case.

It needs x86-64, BTF (CONFIG_DEBUG_INFO_BTF), CONFIG_VMAP_STACK, and CONFIG_BPF_SYSCALL; no
kprobes, no fentry, no headers, no tracefs.

"""


def write(planned: int) -> None:
    """The page; it says so if fewer cases ran than were planned."""
    from tests.vm.guest import FORKS, SLEEPERS

    said = refusals()
    lines = [
        HEAD.format(day=datetime.now(UTC).strftime("%Y-%m-%d"), sleepers=SLEEPERS, forks=FORKS),
        *table(),
        "",
    ]
    if len(SEEN) < planned:
        lines += [f"{planned - len(SEEN)} of {planned} cases did not run this time.", ""]
    if said:
        lines += ["What refuses, and what it says:", "", *said, ""]
    PAGE.write_text("\n".join(lines))
