/*
 * How deep has every live task's kernel stack ever been, how deep is it now?
 *
 * Two iterators, both run only while user space reads them; nothing is attached
 * to any path of the kernel. stack_scan visits the tasks of the reader's PID
 * namespace; idle_scan visits each possible CPU's pid-0 task, which no task list
 * holds although fork_idle() gave it a stack that the kernel counts.
 *
 * Offsets of kernel fields come from BTF as macros, STRUCT_FIELD.
 */
#include "high_water.h"

/* One reader at a time: a second one would write over the first one's page. */
BPF_ARRAY(scratch, struct scratch, 1);

/* One slot for each possible CPU: what idle_scan walks over. It holds the CPU's
 * idle task where stack_scan had to find it, else 0. */
BPF_ARRAY(cpus, u64, POSSIBLE_CPUS);

struct iter_meta {
	void *seq;
	u64 session_id;
	u64 seq_num;
};

struct task_iter {
	struct iter_meta *meta;
	void *task;
};

struct map_iter {
	struct iter_meta *meta;
	void *map;
	u32 *key;
	u64 *value;
};

/* A field behind a pointer whose type the verifier knows: a plain load. */
#define FIELD(type, base, offset) (*(type volatile *)((char *)(base) + (offset)))

/* The same for a field that is itself such a pointer. */
#define POINTER(base, offset) ((void *)FIELD(void *, base, offset))

/* A field behind an address that is only a number to it. 0 if unreadable. */
#define PEEK(type, base, offset)                                                                   \
	({                                                                                         \
		type peeked = 0;                                                                   \
		bpf_probe_read_kernel(&peeked, sizeof(peeked), (void *)((u64)(base) + (offset)));  \
		peeked;                                                                            \
	})

/* linux/sched.h: not in BTF. PF_KTHREAD has had this value since 2.6.27. */
#define PF_KTHREAD 0x00200000

/* linux/vmalloc.h: get_vm_area_size() */
#define VM_NO_GUARD 0x40
#define VM_AREA_BYTES(size, flags) ((flags) & VM_NO_GUARD ? (size) : (size) - PAGE_BYTES)

/* Without SMP there is no on_cpu field, and the one task on a CPU is the reader. */
#ifdef TASK_STRUCT_ON_CPU
#define ON_CPU(READ, task) READ(u32, task, TASK_STRUCT_ON_CPU)
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

int bpf_iter__task(struct task_iter *ctx)
{
	void *task = ctx->task;
	u32 zero = 0;
	struct scratch *s = scratch.lookup(&zero);

	if (!task || !s)
		return 0;

	/* All loads first, so that their cache misses overlap. */
	u64 stack = FIELD(u64, task, TASK_STRUCT_STACK);
	void *vm = POINTER(task, TASK_STRUCT_STACK_VM_AREA);
	u32 flags = FIELD(u32, task, TASK_STRUCT_FLAGS);
	u64 sp = FIELD(u64, task, TASK_STRUCT_THREAD_SP);
	void *css_set = POINTER(task, TASK_STRUCT_CGROUPS);
	u64 voluntary = FIELD(u64, task, TASK_STRUCT_NVCSW);
	u64 involuntary = FIELD(u64, task, TASK_STRUCT_NIVCSW);
	u64 start = FIELD(u64, task, TASK_STRUCT_START_BOOTTIME);
	u64 comm_low = FIELD(u64, task, TASK_STRUCT_COMM);
	u64 comm_high = FIELD(u64, task, TASK_STRUCT_COMM + 8);
	u64 vm_bytes = FIELD(u64, vm, VM_STRUCT_SIZE);
	u64 vm_flags = FIELD(u64, vm, VM_STRUCT_FLAGS);
	u32 vm_pages = FIELD(u32, vm, VM_STRUCT_NR_PAGES);

	if (!stack || !vm_bytes)
		return 0; /* a zombie: it has given its stack back */

	struct stack_record *r = &s->record;
	r->stack = stack;
	void *cgroup = POINTER(css_set, CSS_SET_DFL_CGRP);
	r->cgroup_id = FIELD(u64, POINTER(cgroup, CGROUP_KN), KERNFS_NODE_ID);
	r->switches = voluntary + involuntary;
	r->start_boot_ns = start;
	r->tid = FIELD(u32, task, TASK_STRUCT_PID);
	r->tgid = FIELD(u32, task, TASK_STRUCT_TGID);
	r->kind = flags & PF_KTHREAD	      ? KIND_KTHREAD
		  : flags & USER_WORKER_FLAGS ? KIND_USER_WORKER
					      : KIND_USER;
	r->flags = 0;
	r->stack_bytes = VM_AREA_BYTES(vm_bytes, vm_flags);
	r->vm_pages = vm_pages;
	*(u64 *)r->comm = comm_low;
	*(u64 *)(r->comm + 8) = comm_high;
	set_depth(r, sp, ON_CPU(FIELD, task));

#ifdef FIND_IDLE_BY_RUNQUEUE
	void *rq = POINTER(POINTER(task, TASK_STRUCT_SE_CFS_RQ), CFS_RQ_RQ);
	u32 cpu = FIELD(u32, rq, RQ_CPU);
	u64 *idle = cpus.lookup(&cpu);
	if (idle)
		*idle = FIELD(u64, rq, RQ_IDLE);
#endif

	/* On a kernel with dynamic stacks, to read an unmapped page of another
	 * task's stack fails; to read one's own maps it. */
	bool own = (u64)task == bpf_get_current_task();
	scan_stack(s, own ? vm_pages : r->stack_bytes / PAGE_BYTES);

	if (FIELD(u64, task, TASK_STRUCT_STACK) == stack)
		bpf_seq_write(ctx->meta->seq, r, sizeof(*r));
	return 0;
}

/* The idle task of a CPU, as an address. 0 if it can't be found. */
static __always_inline u64 idle_task_of(u32 cpu, u64 found)
{
#ifdef FIND_IDLE_BY_RUNQUEUE
	return found;
#elif defined(TASK_GROUP_CFS_RQ)
	/* Any task group has a cfs_rq on each possible CPU. */
	u64 group = PEEK(u64, bpf_get_current_task(), TASK_STRUCT_SCHED_TASK_GROUP);
	u64 cfs_rqs = PEEK(u64, group, TASK_GROUP_CFS_RQ);
	u64 cfs_rq = PEEK(u64, cfs_rqs, cpu * sizeof(u64));
	u64 rq = PEEK(u64, cfs_rq, CFS_RQ_RQ);
	return PEEK(u64, rq, RQ_IDLE);
#else
	return 0;
#endif
}

int bpf_iter__bpf_map_elem(struct map_iter *ctx)
{
	u32 *key = ctx->key;
	u64 *value = ctx->value;
	u32 zero = 0;
	struct scratch *s = scratch.lookup(&zero);

	if (!key || !value || !s)
		return 0;

	u64 task = idle_task_of(*key, *value);
	u64 stack = PEEK(u64, task, TASK_STRUCT_STACK);
	if (!task || !stack)
		return 0;

	struct stack_record *r = &s->record;
	u64 vm = PEEK(u64, task, TASK_STRUCT_STACK_VM_AREA);
	r->flags = vm ? 0 : FLAG_STATIC;
	if (!vm) /* init_stack is as large as the reader's */
		vm = PEEK(u64, bpf_get_current_task(), TASK_STRUCT_STACK_VM_AREA);
	r->stack = stack;
	r->cgroup_id = 0;
	r->switches = PEEK(u64, task, TASK_STRUCT_NVCSW) + PEEK(u64, task, TASK_STRUCT_NIVCSW);
	r->start_boot_ns = 0;
	r->tid = 0;
	r->tgid = 0;
	r->kind = KIND_IDLE;
	r->stack_bytes =
	    VM_AREA_BYTES(PEEK(u64, vm, VM_STRUCT_SIZE), PEEK(u64, vm, VM_STRUCT_FLAGS));
	r->vm_pages = PEEK(u32, vm, VM_STRUCT_NR_PAGES);
	bpf_probe_read_kernel(r->comm, sizeof(r->comm), (void *)(task + TASK_STRUCT_COMM));
	set_depth(r, PEEK(u64, task, TASK_STRUCT_THREAD_SP), ON_CPU(PEEK, task));

	scan_stack(s, r->stack_bytes / PAGE_BYTES);
	bpf_seq_write(ctx->meta->seq, r, sizeof(*r));
	return 0;
}
