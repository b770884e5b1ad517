// SPDX-License-Identifier: GPL-2.0-or-later
/* The tid of each task that the kernel's iterator shows, and nothing else. */
#include <linux/types.h>

struct iter_meta {
	void *seq;
};

struct task_iter {
	struct iter_meta *meta;
	void *task;
};

int bpf_iter__task(struct task_iter *ctx)
{
	u32 tid = 0;

	if (!ctx->task)
		return 0;
	bpf_probe_read_kernel(&tid, sizeof(tid), ctx->task + TASK_STRUCT_PID);
	bpf_seq_write(ctx->meta->seq, &tid, sizeof(tid));
	return 0;
}
