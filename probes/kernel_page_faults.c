// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * How many page faults on user memory does this host take in kernel mode? Those in user mode, far
 * more frequent, need no program: the kernel counts the sum of both.
 */
#include "records.h"

/* Mapped by user space. One cache line per CPU: no sharing on this path. */
BPF_F_TABLE("array", u32, struct kernel_page_fault_counters, kernel_page_faults, POSSIBLE_CPUS,
	    BPF_F_MMAPABLE);

/* page_fault_kernel(address, regs, error_code) */
int on_kernel_fault(struct bpf_raw_tracepoint_args *ctx)
{
	u32 cpu = bpf_get_smp_processor_id();
	struct kernel_page_fault_counters *c;

	if ((s64)ctx->args[0] < 0)
		return 0; /* on a kernel address: vmalloc, or a probe's read */
	c = kernel_page_faults.lookup(&cpu);
	if (c)
		c->faults++;
	return 0;
}
