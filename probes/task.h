/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How probes read a task. Offsets of kernel fields come from BTF as macros, STRUCT_FIELD.
 */
#ifndef TASK_H
#define TASK_H

#include "high_water.h"

/* Context of a BPF iterator over tasks, see bpf_iter__task. */
struct task_iter {
	void *meta;
	void *task;
};

/*
 * Kernel fields. Each is four macros made from BTF by kernel/offsets.py: X is its offset,
 * X_BYTES how many bytes to load, and X_SHIFT and X_BITS where in them it lies (for a bit-field;
 * else 0 and all). Field types differ between kernels, so none is named here. All numbers are read
 * as unsigned 64-bit.
 */

/* Extracts the field's bits from what was loaded: constant, so a no-op for most fields. */
#define BITS_OF(loaded, shift, bits) ((u64)(loaded) >> (shift) & (~0ULL >> (64 - (bits))))

/* `bytes` is constant, so one load is chosen at compile time. */
#define LOAD_AS(type, base, offset) (*(type volatile *)((char *)(base) + (offset)))
#define LOAD(base, offset, bytes)                                                                  \
	((bytes) == 1	? LOAD_AS(u8, base, offset)                                                \
	 : (bytes) == 2 ? LOAD_AS(u16, base, offset)                                               \
	 : (bytes) == 4 ? LOAD_AS(u32, base, offset)                                               \
			: LOAD_AS(u64, base, offset))

/* A number behind a pointer whose type the verifier knows: a plain load. */
#define FIELD(base, field) BITS_OF(LOAD(base, field, field##_BYTES), field##_SHIFT, field##_BITS)

/* The same for a field that is itself such a pointer. */
#define POINTER(base, field) LOAD_AS(void *, base, field)

/* A number of `bytes` bytes at an address that is a scalar to the verifier. 0 if unreadable.
 * Little-endian: a narrow one fills the low bytes. */
#define PEEK_AT(address, bytes)                                                                    \
	({                                                                                         \
		u64 peeked = 0;                                                                    \
		bpf_probe_read_kernel(&peeked, bytes, (void *)(u64)(address));                     \
		peeked;                                                                            \
	})
#define PEEK(base, field)                                                                          \
	BITS_OF(PEEK_AT((u64)(base) + (field), field##_BYTES), field##_SHIFT, field##_BITS)

/* The current task: bpf_get_current_task_btf() gives a pointer whose type the verifier knows
 * (commit 3ca1032ab7ab, in 5.11). A load through it takes 2 ns, PEEK() 30. */
#ifdef TYPED_CURRENT_TASK
#define current_task() (((void *(*)(void))158)())
#define OWN_FIELD FIELD
#define OWN_POINTER POINTER
#else
#define current_task() ((void *)bpf_get_current_task())
#define OWN_FIELD PEEK
#define OWN_POINTER(base, field) ((void *)PEEK_AT((u64)(base) + (field), sizeof(u64)))
#endif

/* The context of BPF_PROG_TYPE_PERF_EVENT begins with the interrupted registers. */
struct registers {
	u64 words[21];
};

#define REGISTER(registers, field)                                                                 \
	BITS_OF((registers)->words[(field) / 8], (field) % 8 * 8 + field##_SHIFT, field##_BITS)

/* linux/sched.h: not in BTF. The value of commit 7b34e4283c68 ("introduce PF_KTHREAD flag"). */
#define PF_KTHREAD 0x00200000

/* asm/thread_info.h: in a 32-bit system call */
#define TS_COMPAT 2

/* pt_regs.orig_ax where no system call was entered */
#define NO_SYSCALL 0xFFFFFFFF

/* uapi/linux/bpf.h: BPF_RB_NO_WAKEUP */
#define RB_NO_WAKEUP 1

/* linux/vmalloc.h: get_vm_area_size() */
#define VM_NO_GUARD 0x40
#define VM_AREA_BYTES(size, flags) ((flags) & VM_NO_GUARD ? (size) : (size) - PAGE_BYTES)

/* Without SMP there is no on_cpu field, and the one task on a CPU is the reader. */
#ifdef TASK_STRUCT_ON_CPU
#define ON_CPU(READ, task) READ(task, TASK_STRUCT_ON_CPU)
#else
#define ON_CPU(READ, task) ((u64)(task) == bpf_get_current_task())
#endif

static __always_inline void set_depth(struct stack_record *r, u64 sp, u32 on_cpu)
{
	u64 depth = r->stack + r->stack_bytes - sp;

	r->depth_bytes = 0;
	if (on_cpu)
		r->flags |= FLAG_ON_CPU;
	else if (depth <= r->stack_bytes)
		r->depth_bytes = depth;
}

/*
 * sched_entity.exec_start is when the scheduler last charged a task for its time: for a sleeping
 * one, when it stopped running. Its clock (rq->clock_task) is per CPU and leaves out interrupts and
 * stolen time; the reader's own, as it is running, is at most a tick old.
 *
 * It is 0 from fork, and again from each migration (enqueue_entity(), since commit
 * a53ce18cacb4, in 6.3; before, migrate_task_rq_fair()), until the task next runs. That may be
 * long since commit 152e11f6df29 ("sched/fair: Implement delayed dequeue"), in 6.12: a sleeper
 * whose dequeue is delayed may migrate and be dequeued without running. Then, and where the clocks
 * make it older than the task, the time is unknown.
 */
static __always_inline void set_asleep(struct stack_record *r, u64 last_ran)
{
	s64 asleep = PEEK(bpf_get_current_task(), TASK_STRUCT_SE_EXEC_START) - last_ran;
	s64 age = bpf_ktime_get_boot_ns() - r->start_boot_ns;

	if (r->flags & FLAG_ON_CPU || (last_ran && asleep < 0))
		r->asleep_ns = 0;
	else
		r->asleep_ns = last_ran && asleep <= age ? asleep : UNKNOWN;
}

static __always_inline u32 kind_of(u32 flags)
{
	if (flags & PF_KTHREAD)
		return KIND_KTHREAD;
	return flags & USER_WORKER_FLAGS ? KIND_USER_WORKER : KIND_USER;
}

/* THREAD_SIZE, from a stack's vm_struct. */
static __always_inline u32 stack_bytes_of(u64 vm)
{
	return VM_AREA_BYTES(PEEK(vm, VM_STRUCT_SIZE), PEEK(vm, VM_STRUCT_FLAGS));
}

/*
 * The kernfs node of a css_set's cgroup: in the default (v2) hierarchy or, where that is not
 * mounted, in that of a version 1 controller.
 */
static __always_inline void *cgroup_node_of(void *css_set)
{
#ifdef CSS_SET_V1_STATE
	void *state = POINTER(css_set, CSS_SET_V1_STATE);
	void *cgroup = POINTER(state, CGROUP_SUBSYS_STATE_CGROUP);
#else
	void *cgroup = POINTER(css_set, CSS_SET_DFL_CGRP);
#endif

	return POINTER(cgroup, CGROUP_KN);
}

static __always_inline u64 cgroup_of(void *css_set)
{
	return FIELD(cgroup_node_of(css_set), KERNFS_NODE_ID);
}

/* The cgroup id of a task whose address is a scalar to the verifier. */
static __always_inline u64 cgroup_id_of(u64 task)
{
	u64 cgroup = PEEK(PEEK(task, TASK_STRUCT_CGROUPS), CSS_SET_DFL_CGRP);

	return PEEK(PEEK(cgroup, CGROUP_KN), KERNFS_NODE_ID);
}

/*
 * How many pages of a task's stack may be read. With dynamic stacks, reading an unmapped page fails
 * on another task's stack, and maps it on one's own.
 */
static __always_inline u64 readable_pages(void *task, u32 stack_bytes, u32 vm_pages)
{
	bool own = (u64)task == bpf_get_current_task();

	return own ? vm_pages : stack_bytes / PAGE_BYTES;
}

#endif
