/*
 * How many page faults does this host take, in user and in kernel mode? What a change to
 * #PF would touch: each of them, see FACTS on the second RFC.
 */
#include "records.h"

/* Mapped by user space. One cache line a CPU: nothing is shared on this path. */
BPF_F_TABLE("array", u32, struct page_fault_counters, page_faults, POSSIBLE_CPUS, BPF_F_MMAPABLE);

int on_user_fault(void *ctx)
{
	u32 cpu = bpf_get_smp_processor_id();
	struct page_fault_counters *c = page_faults.lookup(&cpu);

	if (c)
		c->user++;
	return 0;
}

int on_kernel_fault(void *ctx)
{
	u32 cpu = bpf_get_smp_processor_id();
	struct page_fault_counters *c = page_faults.lookup(&cpu);

	if (c)
		c->kernel++;
	return 0;
}
