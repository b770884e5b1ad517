# SPDX-License-Identifier: GPL-2.0-or-later
"""What is picked out of a log: lines as Linux 5.10, 6.18 and 7.2 and clang 14 printed them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dynstack_probe.errors import NotPermittedError, ProbeError, UnmeasurableError
from dynstack_probe.kernel import capabilities
from dynstack_probe.loader.refusal import compiler_words, verifier_words
from tests.loader.test_child_trouble import becomes, fake_python, load

__all__ = ["fake_python"]  # a fixture

NARROW = """\
bpf: Failed to load program: Permission denied
reg type unsupported for arg#0 function bpf_iter__task#35
0: R1=ctx(off=0,imm=0) R10=fp0
; int bpf_iter__task(struct task_iter *ctx)
0: (79) r7 = *(u64 *)(r1 +8)
func 'bpf_iter__task' arg1 has btf_id 181 type STRUCT 'task_struct'
68: (61) r2 = *(u32 *)(r7 +52)
access beyond the end of member on_cpu (mend:53) in struct task_struct with off 52 size 4
processed 54 insns (limit 1000000) max_states_per_insn 0 total_states 2 peak_states 2 mark_read 2

"""
FETCH = """\
bpf: Failed to load program: Invalid argument
Unrecognized arg#0 type PTR
; u64 began = event_begins(__sync_fetch_and_add(&c->created, 1));
31: (db) r2 = atomic64_fetch_add((u64 *)(r7 +0), r2)
BPF_STX uses reserved fields
processed 0 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0

HINT: Invalid argument from the verifier
"""
HELPER = """\
bpf: Failed to load program: Invalid argument
0: (85) call bpf_probe_read_kernel#113
program of this type cannot use helper bpf_probe_read_kernel#113
processed 1 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
"""
CLANG = """\
/work/probes/stack_scan.c:71:6: warning: unused variable 'x' [-Wunused-variable]
/work/probes/stack_scan.c:72:19: error: use of undeclared identifier 'RQ_IDLE'
/work/probes/stack_scan.c:73:19: error: use of undeclared identifier 'RQ_CPU'
2 errors generated.
"""


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (NARROW, "access beyond the end of member on_cpu (mend:53) in struct task_struct with"),
        (FETCH, "BPF_STX uses reserved fields"),
        (HELPER, "program of this type cannot use helper bpf_probe_read_kernel#113"),
        ("", ""),
        ("bpf: Failed to load program: Permission denied\n\n", ""),
        ("processed 1 insns", ""),
        ("x" * 9999 + "\nprocessed 1 insns", "x" * 200),
    ],
)
def test_the_verifiers_last_words(log: str, words: str) -> None:
    found = verifier_words(log)
    assert found.startswith(words)
    assert bool(found) == bool(words)


def test_the_compilers_first_error() -> None:
    assert compiler_words(CLANG) == "use of undeclared identifier 'RQ_IDLE'"
    assert compiler_words("killed") == ""


def answers(path: Path, kind: str, message: str, log: str = "") -> None:
    """A child that prints a log and answers that it was refused."""
    answer = json.dumps({"error": kind, "message": message})
    becomes(
        path,
        f"print({log!r}); sys.stdout.flush(); connection.recv(1 << 16)\n"
        f"connection.send({answer.encode()!r})\n",
    )


def the_error(kind: type[ProbeError]) -> ProbeError:
    with pytest.raises(kind) as caught:
        load()
    assert "\n" not in str(caught.value), "a message is one line"
    return caught.value


@pytest.fixture
def all_capabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capabilities, "effective", lambda: 1 << 39 | 1 << 38)


def test_a_program_that_the_verifier_refuses(fake_python: Path) -> None:
    answers(fake_python, "load", "bpf_iter__task", NARROW)
    error = the_error(UnmeasurableError)
    for words in ("bpf_iter__task of x.c", os.uname().release, "member on_cpu", "report", "-v"):
        assert words in str(error)
    assert "processed 54 insns" in error.details


def test_a_program_that_can_not_be_attached(fake_python: Path) -> None:
    answers(fake_python, "attach", "task_newtask: No such file or directory")
    assert "x.c to task_newtask: No such file" in str(the_error(UnmeasurableError))


def test_lockdown_that_only_the_verifier_tells(
    fake_python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynstack_probe.kernel.features.Features.lockdown", lambda _: None)
    answers(fake_python, "load", "bpf_iter__task", HELPER)
    assert "lockdown mode confidentiality" in str(the_error(UnmeasurableError))


def test_a_probe_that_does_not_compile_is_our_fault(fake_python: Path) -> None:
    answers(fake_python, "compile", "Failed to compile BPF module", CLANG)
    error = the_error(ProbeError)
    assert type(error) is ProbeError
    assert "undeclared identifier 'RQ_IDLE'" in str(error)


@pytest.mark.parametrize(
    ("level", "uid_map", "seccomp", "words"),
    [
        ("3", "0 0 4294967295", 0, "kernel.perf_event_paranoid=3 leaves perf events to"),
        ("2", "0 1000 1", 0, "in a user namespace"),
        ("2", "0 0 4294967295", 2, "a seccomp filter"),
        ("2", "0 0 4294967295", 0, "a security module"),
    ],
)
def test_each_cause_of_a_refused_perf_event_has_its_words(
    fake_python: Path,
    all_capabilities: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    level: str,
    uid_map: str,
    seccomp: int,
    words: str,
) -> None:
    for name, text in (
        ("PERF_PARANOID", level),
        ("UID_MAP", f"         {uid_map}\n"),
        ("STATUS", f"Name:\tx\nSeccomp:\t{seccomp}\nSpeculation:\tx\n"),
    ):
        (tmp_path / name).write_text(text)
        monkeypatch.setattr(capabilities, name, tmp_path / name)
    answers(fake_python, "perf-permission", "samples")
    message = str(the_error(NotPermittedError))
    assert words in message
    others = {"perf_event_paranoid", "user namespace", "seccomp"} - set(words.split())
    if words != "a security module":
        assert sum(other in message for other in others) <= 1
