// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Which call paths take tasks deep into their stacks?
 *
 * A perf event samples each CPU at a fixed rate. If the interrupted task was in the kernel and
 * deeper than DEEPER_THAN bytes, user space gets the call chain that the kernel unwound and the
 * used part of the stack: the chain holds only code addresses, and where these lie on the stack
 * gives the depth of each frame.
 */
#include "task.h"

#define MAX_DEPTH (8 * PAGE_BYTES) /* THREAD_SIZE with KASAN */

struct sample {
	struct path_sample head;
	u8 stack[MAX_DEPTH];
};

/* One per CPU, where events do not nest; values of per-CPU maps are limited to 32 KiB. */
BPF_ARRAY(samples, struct sample, POSSIBLE_CPUS);

#define PAGE_SIZE PAGE_BYTES /* expected by bcc's macro */
BPF_RINGBUF_OUTPUT(paths, RING_PAGES);
BPF_F_TABLE("array", u32, struct sample_counters, counters, POSSIBLE_CPUS, BPF_F_MMAPABLE);

#define UNKNOWN_COUNT 0xFFFFFFFF
#define FLAGS_IF 0x200		   /* asm/processor-flags.h */
#define NO_NEED_RESCHED 0x80000000 /* asm/preempt.h: part of the count on x86 */

/* The preempt count is at the same distance from the run queue on every CPU. */
static __always_inline u32 preempt_count_of(u64 task, u32 cpu)
{
#if defined(PREEMPT_COUNT_FROM_RQ) && defined(CFS_RQ_RQ) && defined(RQ_CPU)
	u64 rq = PEEK(PEEK(task, TASK_STRUCT_SE_CFS_RQ), CFS_RQ_RQ);

	if (rq && PEEK(rq, RQ_CPU) == cpu)
		return PEEK_AT(rq + (s64)(PREEMPT_COUNT_FROM_RQ), 4) & ~NO_NEED_RESCHED;
#endif
	return UNKNOWN_COUNT;
}

int on_sample(struct registers *ctx)
{
	u32 cpu = bpf_get_smp_processor_id();
	struct sample_counters *c = counters.lookup(&cpu);
	struct sample *s = samples.lookup(&cpu);

	if (!c || !s)
		return 0;
	c->taken++;
	u64 task = bpf_get_current_task();
	if (REGISTER(ctx, REGS_CS) & 3) {
		/* The count now is that of sampling alone. */
		c->user_preempt_count = (u64)preempt_count_of(task, cpu) + 1;
		return 0;
	}
	u64 sp = REGISTER(ctx, REGS_SP);
	u64 vm = PEEK(task, TASK_STRUCT_STACK_VM_AREA);
	u64 bytes = stack_bytes_of(vm);
	u64 top = PEEK(task, TASK_STRUCT_STACK) + bytes;
	u64 depth = top - sp;
	if (!vm || depth > bytes || depth > MAX_DEPTH) {
		c->elsewhere++; /* on an IRQ stack, or the boot CPU's idle task */
		return 0;
	}
	c->in_kernel++;
	if (depth <= DEEPER_THAN)
		return 0;
	c->deep++;

	struct path_sample *head = &s->head;
	long length = bpf_get_stack(ctx, head->frames, sizeof(head->frames), 0);
	head->frame_count = length > 0 ? length / sizeof(u64) : 0;
	head->depth_bytes = depth;
	head->cgroup_id = cgroup_id_of(task);
	head->tid = PEEK(task, TASK_STRUCT_PID);
	head->tgid = PEEK(task, TASK_STRUCT_TGID);
	head->kind = kind_of(PEEK(task, TASK_STRUCT_FLAGS));
	head->flags = PEEK(task, TASK_STRUCT_THREAD_INFO_STATUS) & TS_COMPAT ? FAULT_IA32 : 0;
	head->preempt_count = preempt_count_of(task, cpu);
	head->interrupts_on = !!(REGISTER(ctx, REGS_FLAGS) & FLAGS_IF);
	bpf_get_current_comm(head->comm, sizeof(head->comm));

	u32 used = depth;
	if (used > MAX_DEPTH)
		return 0;
	if (bpf_probe_read_kernel(s->stack, used, (void *)sp))
		used = 0;
	head->copied_bytes = used;
	if (paths.ringbuf_output(s, sizeof(*head) + used, RB_NO_WAKEUP))
		c->lost++;
	return 0;
}
