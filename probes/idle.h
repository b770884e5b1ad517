/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The idle tasks: each possible CPU's pid-0 task, which no task list holds although
 * fork_idle() gave it a stack that the kernel counts. An iterator over the map of CPUs visits
 * them.
 */
#ifndef IDLE_H
#define IDLE_H

#include "task.h"

/* What a BPF iterator over a map is given, see bpf_iter__bpf_map_elem. */
struct map_iter {
	void *meta;
	void *map;
	u32 *key;
	u64 *value;
};

/* One slot for each possible CPU: what the iterator walks over. */
BPF_ARRAY(cpus, u64, POSSIBLE_CPUS);

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
	r->stack_bytes = stack_bytes_of(vm);
	r->vm_pages = PEEK(vm, VM_STRUCT_NR_PAGES);
}

/*
 * Reads the stack of the idle task of the CPU that the iterator is at, and fills in the
 * record what depends on the stack alone. The task's address, 0 if it can't be found.
 */
static __always_inline u64 read_idle_stack(struct scratch *s, u32 *cpu)
{
	if (!s || !cpu)
		return 0;
	u64 task = idle_task_of(s, *cpu);
	u64 stack = PEEK(task, TASK_STRUCT_STACK);
	if (!task || !stack)
		return 0;
	describe_idle_stack(&s->record, task, stack);
	scan_stack(s, s->record.stack_bytes / PAGE_BYTES);
	return task;
}

#endif
