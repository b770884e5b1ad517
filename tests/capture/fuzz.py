# SPDX-License-Identifier: GPL-2.0-or-later
"""Mutate captures, and check that whatever comes out is read soundly or refused in a line.

Usage: python -m tests.capture.fuzz SECONDS SEED [FOLDER]

Prints what it did as JSON. An input that breaks a promise is left in FOLDER.
"""

from __future__ import annotations

import contextlib
import copy
import json
import random
import sys
import tempfile
import time
import traceback
import unittest.mock
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dynstack_probe.capture.lines import COLUMNS, FORMAT
from tests.capture.files import (
    Members,
    a_full_frame,
    capture_bytes,
    check_any_file,
    packed,
    parsed,
    peak_rss_kib,
    two_frames,
)

CPU_SECONDS_AN_INPUT = 3.0
MOST_RSS_KIB = 200 * 1024
GOLDEN = Path(__file__).parent.parent / "data"

RAW: list[str] = [
    "NaN",
    "-Infinity",
    "1e999",
    "9" * 4000,
    "9" * 10_000,
    "1" + "0" * 25,
    "-0",
    "-0.0",
    "1.0",
    "1e2",
    "[" * 100_000,
    "[" * 900 + "]" * 900,
    '{"a":' * 5000,
    '"\\ud800"',
    '"\\udc80\\u0000\\u001b[2J"',
    '"' + "x" * 5000 + '"',
    "",
]
VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    3,
    15,
    16,
    17,
    4095,
    4096,
    4097,
    12288,
    16384,
    16385,
    65535,
    65536,
    65537,
    (1 << 22) + (1 << 16),
    (1 << 32) - 1,
    1 << 32,
    (1 << 53) + 1,
    (1 << 64) - 1,
    1 << 64,
    1 << 200,
    0.5,
    1e-300,
    1e300,
    "",
    "x",
    "\ud83d",
    "\n\x1b[31m",
    FORMAT,
    "snapshot",
    "stacks",
    "names",
    "end",
    "comms",
    "cgroups",
    [],
    {},
    [[]],
    [0] * 5000,
    [0, 1, 2, 3, 4, 5, 6],
    ["a"] * 7,
    [[1, None]] * 7,
    [[1, 1, 1], [4, 4, 2]],
    *COLUMNS,
]

Random = random.Random
Place = tuple[Any, Any]  # a container and a key of it


def seeds() -> list[bytes]:
    with unittest.mock.patch("dynstack_probe.capture.writer.CHUNK", 3):
        small = [capture_bytes(f) for f in (two_frames(), [a_full_frame(n) for n in (0, 1, 4)])]
    return [*small, *(path.read_bytes() for path in sorted(GOLDEN.glob("*.dsp")))]


def places(value: Any) -> list[Place]:
    """Every place within a JSON value; of long lists only the ends."""
    found: list[Place] = []
    if isinstance(value, dict):
        keys: list[Any] = list(value)
    elif isinstance(value, list):
        keys = [*range(min(len(value), 3)), len(value) - 1] if value else []
    else:
        return found
    for key in keys:
        found += [(value, key), *places(value[key])]
    return found


def a_line(files: Members, rng: Random) -> tuple[list[dict[str, Any]], int]:
    member = rng.choice([member for member in files if member])
    return member, rng.randrange(len(member))


def change_a_value(files: Members, rng: Random) -> None:
    member, number = a_line(files, rng)
    container, key = rng.choice(places(member[number]) or [(member, number)])
    old = container[key]
    new = copy.deepcopy(rng.choice(VALUES))
    if isinstance(old, int) and rng.random() < 0.5:
        new = old + rng.choice((-1, 1, 7, -old, old, 4096))
    if isinstance(old, list) and rng.random() < 0.5:
        new = (old * 2)[rng.randrange(3) : len(old) + rng.randrange(3)]
    container[key] = new


def remove_a_value(files: Members, rng: Random) -> None:
    member, number = a_line(files, rng)
    container, key = rng.choice(places(member[number]) or [(member, number)])
    del container[key]


def add_a_value(files: Members, rng: Random) -> None:
    member, number = a_line(files, rng)
    line = member[number]
    if isinstance(line, dict):
        line[rng.choice(("later", "tool", *line))] = copy.deepcopy(rng.choice(VALUES))


def move_a_line(files: Members, rng: Random) -> None:
    member, number = a_line(files, rng)
    line = member[number] if rng.random() < 0.5 else member.pop(number)
    target = rng.choice(files)
    target.insert(rng.randint(0, len(target)), copy.deepcopy(line))


def remove_a_line(files: Members, rng: Random) -> None:
    member, number = a_line(files, rng)
    del member[number]


def move_a_member(files: Members, rng: Random) -> None:
    member = files.pop(rng.randrange(len(files)))
    for _ in range(rng.choice((0, 1, 1, 2))):
        files.insert(rng.randint(0, len(files)), copy.deepcopy(member))


def split_or_join_members(files: Members, rng: Random) -> None:
    number = rng.randrange(len(files))
    member = files[number]
    if rng.random() < 0.5 and number + 1 < len(files):
        files[number : number + 2] = [member + files[number + 1]]
    else:
        cut = rng.randint(0, len(member))
        files[number : number + 1] = [member[:cut], member[cut:]]


CHANGES: list[Callable[[Members, Random], None]] = [
    *[change_a_value] * 6,
    *[remove_a_value] * 2,
    add_a_value,
    move_a_line,
    remove_a_line,
    move_a_member,
    split_or_join_members,
]


def change_structure(data: bytes, rng: Random) -> bytes:
    files = parsed(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        # an earlier change may have left no line, or none that is an object
        with contextlib.suppress(IndexError, TypeError):
            rng.choice(CHANGES)(files, rng)
    return packed(files)


def change_text(data: bytes, rng: Random) -> bytes:
    """JSON that no encoder writes: values, keys twice, bytes of any kind."""
    texts = [
        [json.dumps(line, separators=(",", ":")) for line in member] for member in parsed(data)
    ]
    member = rng.choice(texts)
    number = rng.randrange(len(member))
    line = member[number]
    start = rng.randrange(len(line))
    end = min(len(line), start + rng.choice((0, 1, 1, 5)))
    match rng.randrange(4):
        case 0:
            member[number] = line[:start] + rng.choice(RAW) + line[end:]
        case 1:
            colon = line.find(":", start)
            comma = min(p for p in (line.find(",", colon), len(line) - 1) if p >= 0)
            member[number] = line[: colon + 1] + rng.choice(RAW) + line[comma:]
        case 2:
            member[number] = "{" + line[1:-1] + "," + line[1:]
        case _:
            member[number] = line[:start] + chr(rng.choice((0, 9, 10, 13, 0xFEFF))) + line[end:]
    return packed(texts)


def change_bytes(data: bytes, rng: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 20))):
        place = rng.randrange(len(changed) + 1)
        match rng.randrange(6):
            case 0:
                changed[place : place + 1] = bytes([rng.randrange(256)])
            case 1:
                changed[place:place] = rng.randbytes(rng.randrange(9))
            case 2:
                del changed[place : place + rng.randrange(1, 99)]
            case 3:
                del changed[place:]
            case 4:
                start = rng.randrange(len(data))
                changed[place:place] = data[start : start + rng.randrange(200)]
            case _:
                changed += rng.choice((b"\0" * 600, b"\x1f\x8b", data))
        changed = changed or bytearray(b"\x1f")
    return bytes(changed)


def change_unpacked_bytes(data: bytes, rng: Random) -> bytes:
    """As change_bytes(), with checksums that are right."""
    lines = [[json.dumps(line, separators=(",", ":")) for line in m] for m in parsed(data)]
    member = rng.randrange(len(lines))
    raw: list[list[str] | list[bytes]] = list(lines)
    text = "\n".join(lines[member]).encode()
    raw[member] = change_bytes(text, rng).split(b"\n")
    return packed(raw)


KINDS: dict[str, Callable[[bytes, Random], bytes]] = {
    "structure": change_structure,
    "text": change_text,
    "bytes": change_bytes,
    "unpacked bytes": change_unpacked_bytes,
}
WEIGHTS = (6, 2, 1, 2)


def fuzz(seconds: float, seed: int, folder: Path) -> dict[str, Any]:
    """For so many seconds of wall time; stops at the first broken promise."""
    rng = random.Random(seed)
    corpus = seeds()
    inputs: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    ends = time.monotonic() + seconds
    path = folder / "capture"
    failure = None
    while time.monotonic() < ends and failure is None:
        kind = rng.choices(list(KINDS), WEIGHTS)[0]
        data = KINDS[kind](rng.choice(corpus), rng)
        path.write_bytes(data)
        started = time.process_time()
        try:
            frames, error = check_any_file(path)
        except Exception:
            failure = traceback.format_exc()
            break
        took = time.process_time() - started
        slowest = max(slowest, took)
        inputs[kind] += 1
        outcomes["refused" if error else "read"] += 1
        outcomes["frames"] += len(frames)
        if took > CPU_SECONDS_AN_INPUT:
            failure = f"took {took:.1f} s of CPU time"
        if peak_rss_kib() > MOST_RSS_KIB:
            failure = f"peak RSS {peak_rss_kib()} KiB"
    if failure is None:
        path.unlink(missing_ok=True)
    return {
        "inputs": dict(inputs),
        "outcomes": dict(outcomes),
        "slowest_cpu_seconds": round(slowest, 3),
        "peak_rss_kib": peak_rss_kib(),
        "failure": failure,
        "input": str(path) if failure else None,
    }


def main() -> None:
    seconds, seed = float(sys.argv[1]), int(sys.argv[2])
    folder = Path(sys.argv[3] if len(sys.argv) > 3 else tempfile.mkdtemp(prefix="fuzz-"))
    print(json.dumps(fuzz(seconds, seed, folder), indent=1))


if __name__ == "__main__":
    main()
