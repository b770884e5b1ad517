/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The idle tasks: one per possible CPU, all with pid 0. They are on no task list, although
 * fork_idle() gave each a stack that the kernel counts. An iterator over the map of CPUs visits
 * them.
 */
#ifndef IDLE_H
#define IDLE_H

#include "task.h"

/* Context of a BPF iterator over a map, see bpf_iter__bpf_map_elem. */
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

/* bcc turns lookup() into bpf_map_lookup_elem(), and has no bpf_map_lookup_percpu_elem(). */
#define bpf_map_lookup_elem(map, key)                                                              \
	((void *(*)(void *, const void *, u32))195)((void *)(map), key, cpu)

/* Address of a CPU's element. forget(): it is used as a scalar, never dereferenced. */
static __always_inline u64 element_of(struct scratch *s, u32 cpu)
{
	u32 zero = 0;

	return forget(s, (u64)per_cpu.lookup(&zero));
}
#undef bpf_map_lookup_elem
#endif

/*
 * Address of a CPU's run queue, 0 if it can't be found. Every possible CPU has one, plugged in or
 * not.
 */
static __always_inline u64 run_queue_of(struct scratch *s, u32 cpu)
{
#ifdef IDLE_BY_PER_CPU_OFFSET
	/* The distance between two CPUs' copies is the same for all per-CPU variables. */
	u64 rq = PEEK(PEEK(bpf_get_current_task(), TASK_STRUCT_SE_CFS_RQ), CFS_RQ_RQ);
	u64 here = element_of(s, PEEK(rq, RQ_CPU));
	u64 there = element_of(s, cpu);
	return here && there ? rq + there - here : 0;
#elif defined(TASK_GROUP_CFS_RQ)
	/* Every task group has a cfs_rq for each possible CPU. */
	u64 group = PEEK(bpf_get_current_task(), TASK_STRUCT_SCHED_TASK_GROUP);
	u64 cfs_rqs = PEEK(group, TASK_GROUP_CFS_RQ);
	u64 cfs_rq = PEEK_AT(cfs_rqs + cpu * sizeof(u64), sizeof(u64));
	return PEEK(cfs_rq, CFS_RQ_RQ);
#else
	return 0;
#endif
}

/* Address of a CPU's idle task, 0 if it can't be found. */
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
 * Reads the idle task's stack of the iterator's CPU, and fills in the fields of the record that
 * depend on the stack alone. Returns the task's address, 0 if it can't be found.
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
