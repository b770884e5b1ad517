# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames of a call path, from a chain that a kernel unwound."""

from __future__ import annotations

from array import array

from dynstack_probe.kernel.kallsyms import Symbols
from dynstack_probe.measure.call_paths import Frame, named_frames

# Linux 6.18.44, sampled in BPF's verifier. bpf_prog_load was traced: it began with a call of
# a trampoline, which called the rest of it. The unwinder does not tell the trampoline.
# Address, where its function begins, its name, and where on the stack the address lay.
RECORDED = (
    (0xFFFFFFFF81409E35, 0xFFFFFFFF81409E30, "__rcu_read_unlock", ()),
    (0xFFFFFFFF8168FDC1, 0xFFFFFFFF8168FC80, "refill_obj_stock", (3136, 584)),
    (0xFFFFFFFF816923FE, 0xFFFFFFFF816922B0, "obj_cgroup_charge_account", (3080,)),
    (0xFFFFFFFF81692B41, 0xFFFFFFFF81692A40, "__memcg_slab_post_alloc_hook", (3032,)),
    (0xFFFFFFFF81635066, 0xFFFFFFFF81634AD0, "__kmalloc_node_track_caller_noprof", (2960,)),
    (0xFFFFFFFF816353A6, 0xFFFFFFFF816351C0, "krealloc_node_align_noprof", (2832, 2816)),
    (0xFFFFFFFF814E560C, 0xFFFFFFFF814E55B0, "copy_array.constprop.0", (2912, 2768)),
    (0xFFFFFFFF814E89C9, 0xFFFFFFFF814E87F0, "copy_verifier_state", (2728,)),
    (0xFFFFFFFF814E8ACD, 0xFFFFFFFF814E8A50, "push_stack", (2680,)),
    (0xFFFFFFFF814FFFDD, 0xFFFFFFFF814FFB60, "check_cond_jmp_op", (2624,)),
    (0xFFFFFFFF81507D76, 0xFFFFFFFF815052B0, "do_check_common", (2400, 2384)),
    (0xFFFFFFFF8150B973, 0xFFFFFFFF81508F10, "bpf_check", (2144,)),
    (0xFFFFFFFF814DB9DE, 0xFFFFFFFF814DB320, "bpf_prog_load", (1824, 1808)),
    (0xFFFFFFFF814DB325, 0xFFFFFFFF814DB320, "bpf_prog_load", (1408,)),
    (0xFFFFFFFF814DE2EB, 0xFFFFFFFF814DD500, "__sys_bpf", (1400,)),
    (0xFFFFFFFF814E038D, 0xFFFFFFFF814E0370, "__x64_sys_bpf", (936,)),
    (0xFFFFFFFF821EF691, 0xFFFFFFFF821EF620, "do_syscall_64", (920, 360)),
    (0xFFFFFFFF81000130, 0xFFFFFFFF810000BA, "entry_SYSCALL_64_after_hwframe", (168,)),
)
DEPTH_BYTES = 3144
PROG_LOAD = 0xFFFFFFFF814DB320


def symbols_of(*more: tuple[int, str]) -> Symbols:
    found = sorted({(start, name) for _, start, name, _ in RECORDED} | set(more))
    return Symbols(array("Q", (start for start, _ in found)), [name for _, name in found])


def stack_of(depth_bytes: int, places: dict[int, int]) -> array[int]:
    words = array("Q", [0] * (depth_bytes // 8))
    for depth, address in places.items():
        words[(depth_bytes - depth) // 8 - 1] = address
    return words


def functions(chain: list[int], symbols: Symbols) -> list[str]:
    return [frame.function for frame in named_frames(chain, array("Q"), 0, symbols)]


def test_a_traced_function_was_called_once() -> None:
    chain = [address for address, *_ in RECORDED]
    words = stack_of(
        DEPTH_BYTES, {depth: address for address, _, _, depths in RECORDED for depth in depths}
    )
    frames = named_frames(chain, words, DEPTH_BYTES, symbols_of())
    names = [name for _, _, name, _ in RECORDED]
    names.remove("bpf_prog_load")  # one of two
    assert [frame.function for frame in frames] == names
    assert frames[0] == Frame("__rcu_read_unlock", DEPTH_BYTES)
    # to where its call of bpf_check, or its caller's of itself, left the return address
    assert Frame("bpf_prog_load", 1824) in frames
    assert Frame("__sys_bpf", 1400) in frames


def test_a_trampoline_that_is_told_stands_between() -> None:
    trampoline = 0xFFFFFFFFC0000B00
    chain = [PROG_LOAD + 0x6BE, trampoline + 0x49, PROG_LOAD + 5, 0xFFFFFFFF814DE2EB]
    named = symbols_of((trampoline, "bpf_trampoline_6442459000 [bpf]"))
    assert functions(chain, named) == [
        "bpf_prog_load", "bpf_trampoline_6442459000 [bpf]", "__sys_bpf",
    ]  # fmt: skip
    unnamed = symbols_of((0xFFFFFFFF837F8910, "_einittext"))
    assert functions(chain, unnamed) == ["bpf_prog_load", "0xffffffffc0000b48", "__sys_bpf"]


def test_behind_endbr64_the_call_ends_four_bytes_later() -> None:
    chain = [PROG_LOAD + 0x6BE, PROG_LOAD + 9, 0xFFFFFFFF814DE2EB]
    assert functions(chain, symbols_of()) == ["bpf_prog_load", "__sys_bpf"]


def test_real_recursion_stays() -> None:
    chain = [PROG_LOAD + 0x6BE, PROG_LOAD + 0x700, PROG_LOAD + 0x6BE, 0xFFFFFFFF814DE2EB]
    assert functions(chain, symbols_of()) == ["bpf_prog_load"] * 3 + ["__sys_bpf"]
    # each of both runs of a traced function that calls itself begins with a hook
    traced = [PROG_LOAD + 0x6BE, PROG_LOAD + 5, PROG_LOAD + 0x700, PROG_LOAD + 5]
    assert functions(traced, symbols_of()) == ["bpf_prog_load"] * 2


def test_what_runs_in_a_hook_keeps_the_function_that_it_belongs_to() -> None:
    """A sample in the BPF program, before the rest of the function was called."""
    program = 0xFFFFFFFFC0027770
    chain = [program + 0x20, PROG_LOAD + 5, 0xFFFFFFFF814DE2EB]
    named = symbols_of((program, "bpf_prog_4b7c46ce0914b93d_hook [bpf]"))
    assert functions(chain, named) == [
        "bpf_prog_4b7c46ce0914b93d_hook [bpf]", "bpf_prog_load", "__sys_bpf",
    ]  # fmt: skip
