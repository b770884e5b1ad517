/*
 * How many page faults does this host take in kernel mode? Only where no perf counter may be
 * had; user mode, which is far more often, is told without a program.
 */
#include "records.h"

/* Mapped by user space. One cache line a CPU: nothing is shared on this path. */
BPF_F_TABLE("array", u32, struct kernel_page_fault_counters, kernel_page_faults, POSSIBLE_CPUS,
	    BPF_F_MMAPABLE);

int on_kernel_fault(void *ctx)
{
	u32 cpu = bpf_get_smp_processor_id();
	struct kernel_page_fault_counters *c = kernel_page_faults.lookup(&cpu);

	if (c)
		c->faults++;
	return 0;
}
