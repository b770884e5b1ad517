# SPDX-License-Identifier: GPL-2.0-or-later
"""Run real software as real loads, record each, and write docs/results.md from the captures.

Usage: python tests/results/run.py [--loads pgbench-10,nginx] [--no-document] [--list | --packages]

Of each load it leaves in docs/results/ the capture NAME.dsp, made by `dynstack-probe record`,
and NAME.json: when, on what, which versions, what `dynstack-probe faults` and perf said. Names
of what else runs on this host are replaced by tokens in both.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from dynstack_probe.capture import read_frames  # noqa: E402
from tests.results import document  # noqa: E402
from tests.results.captures import (  # noqa: E402
    COUNTED_SECONDS,
    FAULTS_SECONDS,
    FOLDER,
    SAMPLES_A_SECOND,
    WARM_UP_SECONDS,
    keep_own_names,
)
from tests.results.counters import Beside  # noqa: E402
from tests.results.loads import __all__ as _declared  # noqa: E402, F401
from tests.results.place import CGROUP, LOADS, Load, Place, SetUpError  # noqa: E402

TOOL = (sys.executable, "-m", "dynstack_probe")
# By perf, after the series: a tracepoint on each system call costs something.
SYSTEM_CALLS = "raw_syscalls:sys_enter"
# A sampled path counts from here on: deeper than this is seldom seen between two instructions.
DEEPER_THAN_BYTES = 2048
KEPT_PATHS, KEPT_CROSSINGS = 3, 8
AGES_SECONDS = (0.001, 0.01, 0.1, 1.0, 10.0, 60.0)


def main() -> None:
    arguments = _arguments()
    names = arguments.loads.split(",") if arguments.loads else list(LOADS)
    unknown = [name for name in names if name not in LOADS]
    if unknown:
        raise SystemExit(f"no load {', '.join(unknown)}; there are: {', '.join(LOADS)}")
    if arguments.list:
        print("\n".join(f"{name:18} {LOADS[name].says}" for name in names))
        return
    if arguments.packages:
        print(*sorted({package for name in names for package in LOADS[name].packages}))
        return
    if os.geteuid() != 0:
        raise SystemExit("needs root: it mounts, makes namespaces and loads BPF")
    # Ended from outside it takes down its load first, also where a shell had it ignore Ctrl-C.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    folder = Path(arguments.folder)
    folder.mkdir(exist_ok=True, parents=True)
    for position, name in enumerate(names, 1):
        print(f"{position}/{len(names)} {name} ...", end=" ", flush=True, file=sys.stderr)
        began = time.monotonic()
        outcome = measure(LOADS[name], folder)
        print(f"{outcome}, {time.monotonic() - began:.0f} s", file=sys.stderr)
    if not arguments.no_document:
        document.write(ROOT / "docs")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--loads", default="", help="only these, with commas between")
    parser.add_argument("--folder", default=str(FOLDER), help="where captures go")
    parser.add_argument("--no-document", action="store_true", help="only record")
    parser.add_argument("--list", action="store_true", help="print the loads")
    parser.add_argument("--packages", action="store_true", help="print Debian's packages for them")
    return parser.parse_args()


def measure(load: Load, folder: Path) -> str:
    """Run it, and leave its files; one that can't run leaves the reason."""
    note: dict[str, Any] = {
        "load": load.name,
        "says": load.says,
        "versions": versions(load.packages),
        "taken": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    capture = folder / f"{load.name}.dsp"
    try:
        with Place(load.name) as place, tempfile.TemporaryDirectory() as temporary:
            load.start(place)
            time.sleep(WARM_UP_SECONDS)
            place.check()
            raw = Path(temporary) / "raw.dsp"
            with Beside(place.cgroup) as beside:
                _tool(
                    *("record", str(raw), "--duration", f"{load.recorded_seconds}s"),
                    *("--interval", f"{load.interval_seconds}s"),
                )
            place.check()
            note["load_average"] = os.getloadavg()[0]
            first, last = ends(raw)
            note["beside"] = beside.between(first, last)
            note["recorded_seconds"] = last - first
            note["system_calls_per_second"] = system_calls_per_second()
            own_names = keep_own_names(raw, capture, f"/{CGROUP}/{load.name}")
            note["faults"] = faults(Path(temporary), place.cgroup is not None, load.name, own_names)
            place.check()
            note["stressors"] = stressors(place.log.read_text(errors="replace"))
            outcome = f"{capture.stat().st_size:,} bytes"
    except (SetUpError, OSError) as error:
        capture.unlink(missing_ok=True)
        note["not_run"] = _without_folders(str(error))
        outcome = f"did not run: {error}"
    (folder / f"{load.name}.json").write_text(json.dumps(note, indent=1) + "\n")
    return outcome


def stressors(log: str) -> dict[str, int]:
    """How many of stress-ng's passed, failed and were skipped; empty of other loads."""
    found = re.findall(r"(skipped|passed|failed): (\d+)", log)
    return {how: int(count) for how, count in found[:3]}


def versions(packages: Sequence[str]) -> dict[str, str]:
    """As dpkg has them; what is not installed is left out."""
    found = {}
    for package in packages:
        result = subprocess.run(
            ["dpkg-query", "-W", "-f", "${Version}", package],
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode == 0 and result.stdout:
            found[package] = result.stdout
    return found


def ends(capture: Path) -> tuple[float, float]:
    """When the first and the last counts were read, seconds of CLOCK_BOOTTIME.

    That is right before each scan, at whose end a frame's time is taken.
    """
    frames = read_frames(capture)
    moments = [frame.boot_ns / 1e9 - frame.cost.scan_seconds for frame in frames]
    return moments[0], moments[-1]


def system_calls_per_second() -> float | None:
    """Of the whole host, by perf; None where it can't."""
    if shutil.which("perf") is None:
        return None
    result = subprocess.run(
        ["perf", "stat", "-a", "-x", ";", "-e", SYSTEM_CALLS, "sleep", str(COUNTED_SECONDS)],
        capture_output=True,
        text=True,
        check=False,
    )
    for line in result.stderr.splitlines():
        fields = line.split(";")
        if len(fields) > 2 and fields[2] == SYSTEM_CALLS:
            with contextlib.suppress(ValueError):
                return float(fields[0]) / COUNTED_SECONDS
    return None


def faults(temporary: Path, has_cgroup: bool, name: str, own_names: set[str]) -> dict[str, Any]:
    """What `dynstack-probe faults` saw, of the load's own cgroup apart from the rest."""
    output = temporary / "faults.json"
    _tool(
        *("faults", "--duration", f"{FAULTS_SECONDS}s", "--format", "json"),
        *("--output", str(output), "--folded", str(temporary / "folded")),
        *("--rate", str(SAMPLES_A_SECOND), "--deeper-than", str(DEEPER_THAN_BYTES)),
    )
    said = json.loads(output.read_text())
    own = f"/{CGROUP}/{name}"
    crossings = [
        one for one in said["crossings"] if not has_cgroup or one["cgroup"].startswith(own)
    ]
    calls: dict[str, Counter[str]] = {}
    for one in crossings:
        call = calls.setdefault(one["call"], Counter())
        call.update(crossings=1, faults=one["faults"])
        call["deepest_bytes"] = max(call["deepest_bytes"], one["mark_bytes"])
    ages = Counter(
        next((f"<{age:g}" for age in AGES_SECONDS if one["age_seconds"] < age), "more")
        for one in crossings
    )
    deepest = sorted(crossings, key=lambda one: -one["mark_bytes"])[:KEPT_CROSSINGS]
    kept = ("comm", "call", "context", "mark_bytes", "pages_before", "pages", "age_seconds")
    return {
        "seconds": said["seconds"],
        "host": said["found"],
        "rfc_v1": said["rfc_v1"],
        "caveats": said["caveats"],
        "own_calls": dict(sorted(calls.items(), key=lambda item: -item[1]["faults"])),
        "own_ages": ages,
        "own_contexts": Counter(one["context"] for one in crossings),
        "own_deepest": [{key: one[key] for key in kept} for one in deepest],
        "samples": said.get("samples"),
        "deepest_paths": deepest_paths(said.get("paths", []), own_names),
    }


def deepest_paths(paths: Sequence[dict[str, Any]], names: set[str]) -> list[dict[str, Any]]:
    """Of tasks so named: the load's and kernel threads, which work for it in no cgroup."""
    own = [path for path in paths if path["comm"] in names]
    return [
        {
            **{key: path[key] for key in ("comm", "call", "samples", "deepest_bytes")},
            "path": [f"{frame['function']} {frame['depth_bytes']}" for frame in path["frames"]],
        }
        for path in sorted(own, key=lambda path: -path["deepest_bytes"])[:KEPT_PATHS]
    ]


def _tool(*arguments: str) -> None:
    result = subprocess.run(
        [*TOOL, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        check=False,
    )
    if result.returncode:
        raise SetUpError(f"dynstack-probe {arguments[0]}: {result.stderr.strip()}")


def _without_folders(text: str) -> str:
    return re.sub(r"/\S*/", "", text)


if __name__ == "__main__":
    main()
