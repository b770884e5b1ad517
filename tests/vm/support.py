# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/support.md, made from what each kernel of the matrix did.

The whole matrix takes hours in emulation, so each case's results are saved as it ends: an
interrupted run can resume from there. Each row has its own date and commit.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tests import ROOT
from tests.vm.machine import Offer, by_version, cache_folder

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
# Results older than this are not reused.
KEPT_SECONDS = 24 * 3600
RESUME = bool(os.environ.get("DYNSTACK_VM_RESUME"))


def kept(what: tuple[Any, ...]) -> dict[str, Any] | None:
    """What a machine like this noted within the last day, if this run may go on from there."""
    path = _place(what)
    if not RESUME or not path.exists() or time.time() - path.stat().st_mtime > KEPT_SECONDS:
        return None
    facts: dict[str, Any] = json.loads(path.read_text())
    return facts


def keep(what: tuple[Any, ...], facts: dict[str, Any]) -> dict[str, Any]:
    """The facts with day and commit, written down."""
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    facts = {**facts, "run": {"day": day, "commit": commit()}}
    path = _place(what)
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(facts))
    part.rename(path)
    return facts


def _place(what: tuple[Any, ...]) -> Path:
    digest = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]
    return cache_folder() / "seen" / f"{digest}.json"


@cache
def commit() -> str:
    """The tested commit, with a + if the tree is dirty."""
    told = [
        subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        for words in (
            ("rev-parse", "--short=7", "HEAD"),
            ("status", "--porcelain", "--", "dynstack_probe", "probes"),
        )
    ]
    if any(one.returncode for one in told):
        return "no commit"
    return told[0].stdout.strip() + ("+" if told[1].stdout else "")


def note(kernel: str, how: str, offer: Offer | None, facts: dict[str, Any], trouble: str) -> None:
    """`facts` with what an ordinary user's commands did, where only that was tried."""
    SEEN.append(Seen(kernel, how, offer, {**facts.get("user", {}), **facts}, trouble))


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


def rows() -> list[Seen]:
    """The machines that were tried: one that has two names, as 6.12 and stable, once."""
    return list({(seen.offer or seen.kernel, seen.how): seen for seen in SEEN}.values())


def table() -> list[str]:
    """A row a machine."""
    ends = ("stacks read", "marks equal", "tried")
    lines = [
        f"| kernel | package | booted | {' | '.join([*COMMANDS, *ends])} |",
        "|---" * (3 + len(COMMANDS) + len(ends)) + "|",
    ]
    for seen in rows():
        release = seen.facts.get("kernel_release", seen.trouble)
        package = f"{seen.offer.package} ({seen.offer.suite})" if seen.offer else ""
        cells = [release, package, seen.how or "as it is", *(_cell(seen, c) for c in COMMANDS)]
        run = seen.facts.get("run")
        tried = f"{run['day']}, {run['commit']}" if run else ""
        lines.append(f"| {' | '.join([*cells, _coverage(seen), _marks(seen), tried])} |")
    return lines


def since() -> list[str]:
    """Since which of the kernels that were tried each command works, on each of them."""
    plain = [(seen.offer, seen) for seen in rows() if not seen.how and seen.offer and seen.facts]
    plain.sort(key=lambda one: by_version(one[0]))
    first: dict[str, list[str]] = {}
    for part in COMMANDS:
        since = None
        for offer, seen in plain:
            works = part in seen.facts and outcome(part, seen.facts[part])[0] == 0
            since = (since or offer.series) if works else None
        first.setdefault(f"since Linux {since}" if since else "not on the newest", []).append(part)
    return [
        f"- {', '.join(f'`{part}`' for part in parts)}: {when}" for when, parts in first.items()
    ]


def refusals() -> list[str]:
    """Each sentence once, with the kernels that say it."""
    said: dict[str, dict[str, list[str]]] = {}
    for seen in rows():
        where = f"{seen.facts.get('kernel_release')}{f', {seen.how}' if seen.how else ''}"
        for part in COMMANDS:
            why = refusal(part, seen.facts[part]) if part in seen.facts else ""
            if why:
                said.setdefault(why, {}).setdefault(where, []).append(f"`{part}`")
    lines = []
    for why, parts_on in said.items():
        each = (f"{', '.join(parts)} on {where}" for where, parts in parts_on.items())
        lines.append(f"- {'; '.join(each)}: {why}")
    return lines


def passed_by() -> list[str]:
    """How many exits' depths are unknown, where many came at once."""
    lines = []
    for seen in rows():
        if "forks" in seen.facts:
            before, after = seen.facts["forks"]["before"], seen.facts["forks"]["after"]["0"]
            unread = after["unread"] - before["unread"]
            exits = after["exited"] - before["exited"] + unread
            lines.append(f"- {seen.facts['kernel_release']}: {unread} of {exits}")
    return lines


HEAD = """# Which kernels it works on

Made by `make vm-test`: Debian's own kernels, each as its package is, in QEMU under
software emulation. Nothing here is claimed for a kernel that did not run it. *works*: the
command did what it says, and its figures were checked: {sleepers} known threads found, {forks}
forks and their exits counted exactly, stacks read against the kernel's own count, marks equal
to those in /proc/kcore, nothing left in the kernel after kill -9, no warning in the kernel's
log. An empty cell: not part of that case. *tried*: the day, and the commit.

It needs x86-64, BTF (CONFIG_DEBUG_INFO_BTF), CONFIG_VMAP_STACK, and CONFIG_BPF_SYSCALL; no
kprobes, no fentry, no headers, no tracefs.

"""


def write(planned: int) -> None:
    """The page; it says so if fewer cases ran than were planned."""
    from tests.vm.guest import FORKS, SLEEPERS

    said = refusals()
    lines = [
        HEAD.format(sleepers=SLEEPERS, forks=FORKS),
        *table(),
        "",
        "What works since when, of the releases tried:",
        "",
        *since(),
        "",
    ]
    if len(SEEN) < planned:
        lines += [f"{planned - len(SEEN)} of {planned} cases did not run this time.", ""]
    if passed_by():
        lines += [
            "Exits of which only the number is known, as the program that reads them was preempted"
            " at work for another task of that CPU; of forks as fast as they come:",
            "",
            *passed_by(),
            "",
        ]
    if said:
        lines += ["What refuses, and what it says:", "", *said, ""]
    PAGE.write_text("\n".join(lines))
