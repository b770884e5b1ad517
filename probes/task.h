/*
 * How probes read a task. Offsets of kernel fields come from BTF as macros, STRUCT_FIELD.
 */
#ifndef TASK_H
#define TASK_H

#include "high_water.h"

/* Contexts of BPF iterators: bpf_iter__task and bpf_iter__bpf_map_elem. */
struct task_iter {
	void *meta;
	void *task;
};

struct map_iter {
	void *meta;
	void *map;
	u32 *key;
	u64 *value;
};

/*
 * Kernel fields. Each is four macros made from BTF by kernel/offsets.py: X is its offset,
 * X_BYTES how many bytes to load, and X_SHIFT and X_BITS where in them it lies (a bit-field;
 * else 0 and all). Kernels change the type of a field: nothing here names one. All numbers
 * are read as unsigned, in 64 bits.
 */

/* Of what was loaded, the bits that are the field: all constant, so nothing for most. */
#define BITS_OF(loaded, shift, bits) ((u64)(loaded) >> (shift) & (~0ULL >> (64 - (bits))))

/* bytes, a constant, chooses one load at compile time. */
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

/* bpf_get_current_task_btf(), since Linux 5.11: a pointer whose type the verifier knows. To
 * load from it takes 2 ns, to copy by PEEK() 30. */
#define current_task() (((void *(*)(void))158)())

/* A number of so many bytes behind an address that is only a number to the verifier. 0 if
 * unreadable. Little-endian: a narrow one fills the low bytes. */
#define PEEK_AT(address, bytes)                                                                    \
	({                                                                                         \
		u64 peeked = 0;                                                                    \
		bpf_probe_read_kernel(&peeked, bytes, (void *)(u64)(address));                     \
		peeked;                                                                            \
	})
#define PEEK(base, field)                                                                          \
	BITS_OF(PEEK_AT((u64)(base) + (field), field##_BYTES), field##_SHIFT, field##_BITS)

/* What BPF_PROG_TYPE_PERF_EVENT is given begins with the interrupted registers. */
struct registers {
	u64 words[21];
};

#define REGISTER(registers, field)                                                                 \
	BITS_OF((registers)->words[(field) / 8], (field) % 8 * 8 + field##_SHIFT, field##_BITS)

/* linux/sched.h: not in BTF. PF_KTHREAD has had this value since 2.6.27. */
#define PF_KTHREAD 0x00200000

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
 * sched_entity.exec_start is when the scheduler last charged a task for its time, so for
 * one that sleeps, when it stopped. Its clock (rq->clock_task) leaves out interrupts and
 * stolen time and is each CPU's own; the reader, which runs now, has one at most a tick old.
 *
 * It is 0 from fork, and again from each migration (enqueue_entity(), before Linux 6.3
 * migrate_task_rq_fair()), until the task next runs. Since 6.12 that may be long: a sleeper
 * whose dequeue is delayed (commit 152e11f6df29) migrates and is dequeued without a run.
 * Then, as where the clocks make it older than the task, nobody knows.
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

/* Whose stack it is. */
static __always_inline u32 kind_of(u32 flags)
{
	if (flags & PF_KTHREAD)
		return KIND_KTHREAD;
	return flags & USER_WORKER_FLAGS ? KIND_USER_WORKER : KIND_USER;
}

/* The cgroup, in the default (v2) hierarchy, that a css_set belongs to. */
static __always_inline u64 cgroup_of(void *css_set)
{
	void *cgroup = POINTER(css_set, CSS_SET_DFL_CGRP);

	return FIELD(POINTER(cgroup, CGROUP_KN), KERNFS_NODE_ID);
}

/*
 * How many pages of a task's stack may be tried. On a kernel with dynamic stacks, to
 * read an unmapped page of another task's stack fails; to read one's own maps it.
 */
static __always_inline u64 readable_pages(void *task, u32 stack_bytes, u32 vm_pages)
{
	bool own = (u64)task == bpf_get_current_task();

	return own ? vm_pages : stack_bytes / PAGE_BYTES;
}

#ifdef IDLE_BY_PER_CPU_OFFSET
/* Only the address of its element on each CPU matters. */
BPF_PERCPU_ARRAY(per_cpu, u64, 1);

/* bcc makes bpf_map_lookup_elem() of lookup() and knows no bpf_map_lookup_percpu_elem(). */
#define bpf_map_lookup_elem(map, key)                                                              \
	((void *(*)(void *, const void *, u32))195)((void *)(map), key, cpu)

/* Where a CPU keeps its element. Forgotten: an address, no value to be read. */
static __always_inline u64 element_of(struct scratch *s, u32 cpu)
{
	u32 zero = 0;

	return forget(s, (u64)per_cpu.lookup(&zero));
}
#undef bpf_map_lookup_elem
#endif

/*
 * The run queue of a CPU, as an address; 0 if it can't be found. Any possible CPU has one,
 * plugged in or not.
 */
static __always_inline u64 run_queue_of(struct scratch *s, u32 cpu)
{
#ifdef IDLE_BY_PER_CPU_OFFSET
	/* It is as far from the reader's as are all per-CPU variables of their CPUs. */
	u64 rq = PEEK(PEEK(bpf_get_current_task(), TASK_STRUCT_SE_CFS_RQ), CFS_RQ_RQ);
	u64 here = element_of(s, PEEK(rq, RQ_CPU));
	u64 there = element_of(s, cpu);
	return here && there ? rq + there - here : 0;
#elif defined(TASK_GROUP_CFS_RQ)
	/* Any task group has a cfs_rq on each possible CPU. */
	u64 group = PEEK(bpf_get_current_task(), TASK_STRUCT_SCHED_TASK_GROUP);
	u64 cfs_rqs = PEEK(group, TASK_GROUP_CFS_RQ);
	u64 cfs_rq = PEEK_AT(cfs_rqs + cpu * sizeof(u64), sizeof(u64));
	return PEEK(cfs_rq, CFS_RQ_RQ);
#else
	return 0;
#endif
}

/* The idle task of a CPU, as an address. 0 if it can't be found. */
static __always_inline u64 idle_task_of(struct scratch *s, u32 cpu)
{
#ifdef RQ_IDLE
	u64 rq = run_queue_of(s, cpu);

	return PEEK(rq, RQ_CPU) == cpu ? PEEK(rq, RQ_IDLE) : 0;
#else
	return 0;
#endif
}

/* Where an idle task's stack is and how large; the boot CPU's has no vmalloc area. */
static __always_inline void describe_idle_stack(struct stack_record *r, u64 task, u64 stack)
{
	u64 vm = PEEK(task, TASK_STRUCT_STACK_VM_AREA);

	r->flags = vm ? 0 : FLAG_STATIC;
	if (!vm) /* init_stack is as large as the reader's */
		vm = PEEK(bpf_get_current_task(), TASK_STRUCT_STACK_VM_AREA);
	r->stack = stack;
	r->stack_bytes = VM_AREA_BYTES(PEEK(vm, VM_STRUCT_SIZE), PEEK(vm, VM_STRUCT_FLAGS));
	r->vm_pages = PEEK(vm, VM_STRUCT_NR_PAGES);
}

#endif
