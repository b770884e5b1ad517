// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Which task first used another page of its stack, and in which system call?
 *
 * For each stack we keep the boundary below which it is unused. At the exit from a system call the
 * few bytes just below it are checked: a call chain that crossed the boundary has left return
 * addresses there. How many bytes suffice was measured, see WINDOW_BYTES in measure/faults.py.
 * Other growth is found at task exit, at the end of a major page fault in user mode, or by the
 * iterators' scan of all tasks, which user space runs once a second.
 *
 * The same growth may be reported twice, by the task and by a concurrent scan. User space takes the
 * first report.
 */
#include "idle.h"

#define WINDOW_WORDS (WINDOW_BYTES / 8)
#define STACK_STRIDE 32768 /* stacks, guard pages included, are at least this far apart */
#define RT_SIGRETURN 15
#define NEVER 0xFFFFFFFF /* known_depth.switches: not yet read by a scan */

#define PF_EXITING 4 /* linux/sched.h */

struct known_depth {
	u64 stack;    /* lowest address of the stack; 0: free slot */
	u64 boundary; /* nothing below this address was used yet */
	u32 switches; /* context switches when a scan last read it */
	u32 is_new;   /* the task has not yet been in user mode */
	u64 syscalls; /* completed, not yet in fault_counters */
};

/* A direct-mapped table: stacks lie 32 KiB apart in one range of addresses, so two rarely collide.
 * Those that do are in a hash. */
BPF_ARRAY(known, struct known_depth, SLOTS);
BPF_HASH(collided, u64, struct known_depth, MAX_COLLIDED);

#define PAGE_SIZE PAGE_BYTES /* expected by bcc's macro */
BPF_RINGBUF_OUTPUT(faults, RING_PAGES);
BPF_F_TABLE("array", u32, struct fault_counters, counters, POSSIBLE_CPUS, BPF_F_MMAPABLE);

/* Tracepoints do not nest, but may interrupt a scan. */
BPF_PERCPU_ARRAY(scratch, struct scratch, 1);
BPF_ARRAY(scan_scratch, struct scratch, 1);

/* Bytes from pt_regs to the top of a stack: learned, as BTF does not give the padding. */
BPF_ARRAY(registers_below_top, u64, 1);

static __always_inline struct known_depth *find(u64 stack)
{
	u32 at = stack / STACK_STRIDE % SLOTS;
	struct known_depth *slot = known.lookup(&at);

	if (slot && slot->stack == stack)
		return slot;
	return collided.lookup(&stack);
}

static __always_inline void store_boundary(u64 stack, u64 boundary, u32 switches, u32 is_new)
{
	u32 at = stack / STACK_STRIDE % SLOTS;
	struct known_depth *slot = known.lookup(&at);
	struct known_depth depth = {
	    .stack = stack, .boundary = boundary, .switches = switches, .is_new = is_new};

	if (!slot)
		return;
	if (slot->stack && slot->stack != stack) {
		if (collided.update(&stack, &depth)) {
			u32 cpu = bpf_get_smp_processor_id();
			struct fault_counters *c = counters.lookup(&cpu);
			if (c)
				__sync_fetch_and_add(&c->untracked, 1);
		}
		return;
	}
	slot->boundary = boundary;
	slot->switches = switches;
	slot->is_new = is_new;
	slot->syscalls = 0;
	slot->stack = stack;
}

/* Counted with the stack, in a cache line that is hot anyway; a few may be lost. */
static __always_inline void flush_syscalls(struct known_depth *depth)
{
	u32 cpu = bpf_get_smp_processor_id();
	struct fault_counters *c = counters.lookup(&cpu);

	if (c)
		__sync_fetch_and_add(&c->syscalls, depth->syscalls);
	depth->syscalls = 0;
}

static __always_inline void drop_stack(u64 stack)
{
	u32 at = stack / STACK_STRIDE % SLOTS;
	struct known_depth *slot = known.lookup(&at);

	if (slot && slot->stack == stack) {
		flush_syscalls(slot);
		slot->stack = 0;
	} else
		collided.delete(&stack);
}

/* The boundary according to mark_bytes of the record. */
static __always_inline u64 scanned_boundary(struct stack_record *r)
{
	u64 pages = (r->mark_bytes + PAGE_BYTES - 1) / PAGE_BYTES;

	return r->stack + r->stack_bytes - (pages ? pages : 1) * PAGE_BYTES;
}

static __always_inline void report(struct stack_record *r, u64 task, u64 boundary, u32 context,
				   u32 syscall, u32 flags)
{
	struct stack_fault fault = {
	    .stack = r->stack,
	    .cgroup_id = cgroup_id_of(task),
	    .switches = PEEK(task, TASK_STRUCT_NVCSW) + PEEK(task, TASK_STRUCT_NIVCSW),
	    .start_boot_ns = PEEK(task, TASK_STRUCT_START_BOOTTIME),
	    .found_boot_ns = bpf_ktime_get_boot_ns(),
	    .tid = PEEK(task, TASK_STRUCT_PID),
	    .tgid = PEEK(task, TASK_STRUCT_TGID),
	    .context = context,
	    .syscall = syscall,
	    .flags = flags,
	    .mark_bytes = r->mark_bytes,
	    .pages_before = (r->stack + r->stack_bytes - boundary) / PAGE_BYTES,
	    .touched_pages = r->touched_pages,
	};

	if (PEEK(task, TASK_STRUCT_THREAD_INFO_STATUS) & TS_COMPAT)
		fault.flags |= FAULT_IA32;
	bpf_probe_read_kernel(fault.comm, sizeof(fault.comm), (void *)(task + TASK_STRUCT_COMM));
	if (faults.ringbuf_output(&fault, sizeof(fault), RB_NO_WAKEUP)) {
		u32 cpu = bpf_get_smp_processor_id();
		struct fault_counters *c = counters.lookup(&cpu);
		if (c)
			__sync_fetch_and_add(&c->lost, 1);
	}
}

/* Reads the current task's whole stack, and reports whether it has grown. */
static __always_inline void check_own_stack(u32 context, u32 syscall, u32 flags)
{
	u64 task = bpf_get_current_task();
	u32 zero = 0;
	u32 cpu = bpf_get_smp_processor_id();
	struct scratch *s = scratch.lookup(&zero);
	struct fault_counters *c = counters.lookup(&cpu);
	u64 vm = PEEK(task, TASK_STRUCT_STACK_VM_AREA);

	if (!s || !c)
		return;
	struct stack_record *r = &s->record;
	r->flags = 0;
	r->stack = PEEK(task, TASK_STRUCT_STACK);
	r->stack_bytes = stack_bytes_of(vm);
	scan_stack(s, PEEK(vm, VM_STRUCT_NR_PAGES));
	if (r->flags & FLAG_UNREADABLE) {
		__sync_fetch_and_add(&c->unread, 1);
		return;
	}
	u64 stack = r->stack;
	u64 boundary = scanned_boundary(r);
	struct known_depth *depth = find(stack);
	if (!depth) {
		store_boundary(stack, boundary, NEVER, 0);
		return;
	}
	u64 before = depth->boundary;
	if (boundary >= before)
		return;
	depth->boundary = boundary;
	report(r, task, before, context, syscall, flags);
}

#ifdef CHECK_WINDOW
/* For tests: whether any word of the page below the boundary was used. */
static __always_inline bool page_is_used(u64 boundary, u64 stack)
{
	u32 zero = 0;
	struct scratch *s = scratch.lookup(&zero);

	if (!s || bpf_probe_read_kernel(s->page, PAGE_BYTES, (void *)(boundary - PAGE_BYTES)))
		return false;
	if (boundary - PAGE_BYTES == stack)
		s->page[0] = 0;
	return lowest_used_word(s) < PAGE_WORDS;
}
#endif

int on_sys_exit(struct bpf_raw_tracepoint_args *ctx)
{
	u64 regs = ctx->args[0]; /* on the task's stack, just below its top */
	u32 at = regs / STACK_STRIDE % SLOTS;
	struct known_depth *slot = known.lookup(&at);
	u32 context = CONTEXT_SYSCALL;
	u32 flags = 0;
	u64 window[WINDOW_WORDS];

	if (!slot)
		return 0;
	slot->syscalls++;
	if (regs - slot->stack < STACK_STRIDE) {
		u64 used = 0;
		if (slot->is_new) {
			slot->is_new = 0;
			context = CONTEXT_FORK_RETURN;
		}
		if (slot->boundary == slot->stack)
			return 0; /* all its pages are used */
		if (bpf_probe_read_kernel(window, sizeof(window),
					  (void *)(slot->boundary - sizeof(window))))
			return 0;
#pragma unroll
		for (u32 i = 0; i < WINDOW_WORDS; i++)
			used |= USED_BITS(window[i]);
#ifdef CHECK_WINDOW
		if (!used && page_is_used(slot->boundary, slot->stack)) {
			used = 1;
			flags = FAULT_HIDDEN;
		}
#endif
		if (!used)
			return 0;
	} else {
		u32 zero = 0;
		u64 *below_top = registers_below_top.lookup(&zero);
		u64 task = bpf_get_current_task();
		u64 vm = PEEK(task, TASK_STRUCT_STACK_VM_AREA);
		if (below_top && !*below_top)
			*below_top = PEEK(task, TASK_STRUCT_STACK) + stack_bytes_of(vm) - regs;
	}
	u32 number = PEEK(regs, REGS_ORIG_AX);
	/* arch/x86/kernel/signal_64.c: restore_sigcontext() sets orig_ax to -1 */
	check_own_stack(context, number == NO_SYSCALL ? RT_SIGRETURN : number, flags);
	return 0;
}

int on_new_task(struct bpf_raw_tracepoint_args *ctx)
{
	u64 task = ctx->args[0];
	u64 stack = PEEK(task, TASK_STRUCT_STACK);
	u64 vm = PEEK(task, TASK_STRUCT_STACK_VM_AREA);

	store_boundary(stack, stack + stack_bytes_of(vm) - PAGE_BYTES, NEVER, 1);
	return 0;
}

int on_process_exit(struct bpf_raw_tracepoint_args *ctx)
{
	u64 task = bpf_get_current_task();

	check_own_stack(PEEK(task, TASK_STRUCT_FLAGS) & PF_KTHREAD ? CONTEXT_KTHREAD : CONTEXT_EXIT,
			NO_SYSCALL, 0);
	drop_stack(PEEK(task, TASK_STRUCT_STACK));
	return 0;
}

/* Software event PERF_COUNT_SW_PAGE_FAULTS_MAJ: mm_account_fault(), after the fault was handled. */
int on_major_fault(struct registers *ctx)
{
	if (REGISTER(ctx, REGS_CS) & 3)
		check_own_stack(CONTEXT_EXCEPTION, NO_SYSCALL, 0);
	return 0;
}

/* The system call that a sleeping or preempted user task last entered, from its saved registers. */
static __always_inline u32 last_entry(struct scratch *s, u64 top)
{
	u32 zero = 0;
	u64 *below_top = registers_below_top.lookup(&zero);

	if (!below_top || !*below_top)
		return NO_SYSCALL;
	return PEEK(top - *below_top, REGS_ORIG_AX);
}

/* Stores what a scan read, and reports growth. */
static __always_inline void compare_scan(struct scratch *s, u64 task, u32 kind, u32 switches,
					 bool exiting)
{
	struct stack_record *r = &s->record;
	u64 stack = r->stack;
	u64 boundary = scanned_boundary(r);
	struct known_depth *depth = find(stack);
	u32 context = CONTEXT_IDLE;
	u32 syscall = NO_SYSCALL;

	if (!depth) {
		if (!exiting)
			store_boundary(stack, boundary, switches, 0);
		return;
	}
	u64 before = depth->boundary;
	depth->switches = switches;
	if (boundary >= before)
		return;
	depth->boundary = boundary;
	if (kind == KIND_KTHREAD)
		context = CONTEXT_KTHREAD;
	else if (kind == KIND_USER_WORKER)
		context = CONTEXT_WORKER;
	else if (kind == KIND_USER) {
		syscall = last_entry(s, stack + r->stack_bytes);
		context = depth->is_new		  ? CONTEXT_FORK_RETURN
			  : syscall == NO_SYSCALL ? CONTEXT_EXCEPTION
						  : CONTEXT_SYSCALL;
	}
	report(r, task, before, context, syscall, FAULT_LATE);
}

int bpf_iter__task(struct task_iter *ctx)
{
	void *task = ctx->task;
	u32 zero = 0;
	struct scratch *s = scan_scratch.lookup(&zero);

	if (!task || !s)
		return 0;

	/* forget(): the verifier rejects arithmetic on pointers. */
	u64 stack = forget(s, FIELD(task, TASK_STRUCT_STACK));
	void *vm = POINTER(task, TASK_STRUCT_STACK_VM_AREA);
	u32 flags = FIELD(task, TASK_STRUCT_FLAGS);
	u32 switches = FIELD(task, TASK_STRUCT_NVCSW) + FIELD(task, TASK_STRUCT_NIVCSW);
	u32 on_cpu = ON_CPU(FIELD, task);
	u64 vm_bytes = FIELD(vm, VM_STRUCT_SIZE);

	if (!stack || !vm_bytes)
		return 0; /* a zombie: its stack is already freed */

	/* No context switch since, and not on a CPU now: it can't have grown. */
	struct known_depth *depth = find(stack);
	if (depth)
		flush_syscalls(depth);
	if (depth && !on_cpu && depth->switches == switches)
		return 0;

	struct stack_record *r = &s->record;
	r->flags = 0;
	r->stack = stack;
	r->stack_bytes = VM_AREA_BYTES(vm_bytes, FIELD(vm, VM_STRUCT_FLAGS));
	scan_stack(s, readable_pages(task, r->stack_bytes, FIELD(vm, VM_STRUCT_NR_PAGES)));
	if (FIELD(task, TASK_STRUCT_STACK) != stack || r->flags & FLAG_UNREADABLE)
		return 0; /* it exited meanwhile */
	compare_scan(s, forget(s, (u64)task), kind_of(flags), switches, flags & PF_EXITING);
	return 0;
}

int bpf_iter__bpf_map_elem(struct map_iter *ctx)
{
	u32 zero = 0;
	struct scratch *s = scan_scratch.lookup(&zero);
	u64 task = read_idle_stack(s, ctx->key);

	if (!s || !task)
		return 0;
	/* The kernel does not count a static stack. */
	if (!(s->record.flags & (FLAG_STATIC | FLAG_UNREADABLE)))
		compare_scan(s, task, KIND_IDLE, 0, false);
	return 0;
}
