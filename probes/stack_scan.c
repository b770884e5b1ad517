// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * How deep has every live task's kernel stack ever been, how deep is it now?
 *
 * Two iterators, which run only while user space reads them; nothing is attached to any kernel code
 * path. One visits the tasks of the reader's PID namespace; the other, over the map of CPUs, each
 * possible CPU's idle task, which is on no task list although fork_idle() gave it a stack that the
 * kernel counts.
 *
 * Offsets of kernel fields come from BTF as macros, STRUCT_FIELD.
 */
#include "idle.h"

/* One reader at a time: a second would overwrite the first one's page. */
BPF_ARRAY(scratch, struct scratch, 1);

/*
 * The system call in which a user task sleeps, from its top page, which scan_stack() reads
 * last. An entry from user mode saves the registers at the top of the stack; struct pt_regs
 * is ABI and ends with orig_ax, ip, cs, flags, sp, ss. With CONFIG_X86_FRED 16 more bytes
 * follow (TOP_OF_KERNEL_STACK_PADDING; the last 8 are zero with FRED and without, as ss of
 * user mode never is). syscall_get_nr(): orig_ax is the call's number as an int, and -1
 * after any other entry.
 */
static __always_inline void set_syscall(struct stack_record *r, struct scratch *s, u32 status)
{
	r->syscall = UNKNOWN;
	if (r->kind != KIND_USER || r->flags & (FLAG_ON_CPU | FLAG_UNREADABLE))
		return;
	u32 orig_ax = s->page[PAGE_WORDS - (s->page[PAGE_WORDS - 1] ? 6 : 8)];
	if (orig_ax != NO_SYSCALL)
		r->syscall = status & TS_COMPAT ? orig_ax | SYSCALL_IA32 : orig_ax;
}

int bpf_iter__task(struct task_iter *ctx)
{
	void *task = ctx->task;
	u32 zero = 0;
	struct scratch *s = scratch.lookup(&zero);

	if (!task || !s)
		return 0;

	/* All loads first, so that their cache misses overlap. */
	u64 stack = FIELD(task, TASK_STRUCT_STACK);
	void *vm = POINTER(task, TASK_STRUCT_STACK_VM_AREA);
	u32 flags = FIELD(task, TASK_STRUCT_FLAGS);
	u64 sp = FIELD(task, TASK_STRUCT_THREAD_SP);
	void *css_set = POINTER(task, TASK_STRUCT_CGROUPS);
	u64 voluntary = FIELD(task, TASK_STRUCT_NVCSW);
	u64 involuntary = FIELD(task, TASK_STRUCT_NIVCSW);
	u64 start = FIELD(task, TASK_STRUCT_START_BOOTTIME);
	u64 last_ran = FIELD(task, TASK_STRUCT_SE_EXEC_START);
#ifdef TASK_STRUCT_THREAD_INFO_STATUS
	u32 status = FIELD(task, TASK_STRUCT_THREAD_INFO_STATUS);
#else
	u32 status = 0;
#endif
	u64 comm_low = LOAD(task, TASK_STRUCT_COMM, 8);
	u64 comm_high = LOAD(task, TASK_STRUCT_COMM + 8, 8);
	u64 vm_bytes = FIELD(vm, VM_STRUCT_SIZE);
	u64 vm_flags = FIELD(vm, VM_STRUCT_FLAGS);
	u32 vm_pages = FIELD(vm, VM_STRUCT_NR_PAGES);

	if (!stack || !vm_bytes)
		return 0; /* a zombie: its stack is already freed */

	struct stack_record *r = &s->record;
	r->stack = stack;
	r->cgroup_id = cgroup_of(css_set);
	r->switches = voluntary + involuntary;
	r->start_boot_ns = start;
	r->tid = FIELD(task, TASK_STRUCT_PID);
	r->tgid = FIELD(task, TASK_STRUCT_TGID);
	r->kind = kind_of(flags);
	r->flags = 0;
	r->stack_bytes = VM_AREA_BYTES(vm_bytes, vm_flags);
	r->vm_pages = vm_pages;
	*(u64 *)r->comm = comm_low;
	*(u64 *)(r->comm + 8) = comm_high;
	set_depth(r, sp, ON_CPU(FIELD, task));
	set_asleep(r, last_ran);

	scan_stack(s, readable_pages(task, r->stack_bytes, vm_pages));
	set_syscall(r, s, status);

	if (FIELD(task, TASK_STRUCT_STACK) == stack)
		bpf_seq_write(POINTER(ctx->meta, BPF_ITER_META_SEQ), r, sizeof(*r));
	return 0;
}

int bpf_iter__bpf_map_elem(struct map_iter *ctx)
{
	u32 zero = 0;
	struct scratch *s = scratch.lookup(&zero);
	u64 task = read_idle_stack(s, ctx->key);

	if (!s || !task)
		return 0;
	struct stack_record *r = &s->record;
	r->cgroup_id = 0;
	r->switches = PEEK(task, TASK_STRUCT_NVCSW) + PEEK(task, TASK_STRUCT_NIVCSW);
	r->start_boot_ns = 0;
	r->syscall = UNKNOWN;
	r->tid = 0;
	r->tgid = 0;
	r->kind = KIND_IDLE;
	bpf_probe_read_kernel(r->comm, sizeof(r->comm), (void *)(task + TASK_STRUCT_COMM));
	set_depth(r, PEEK(task, TASK_STRUCT_THREAD_SP), ON_CPU(PEEK, task));
	set_asleep(r, PEEK(task, TASK_STRUCT_SE_EXEC_START));
	bpf_seq_write(POINTER(ctx->meta, BPF_ITER_META_SEQ), r, sizeof(*r));
	return 0;
}
