// SPDX-License-Identifier: GPL-2.0-or-later
/* The yardstick: copy THREAD_SIZE minus one page of each task's stack, do nothing with it. */
#include <linux/types.h>

#define PAGE_BYTES 4096

struct page {
	char bytes[PAGE_BYTES];
};

BPF_ARRAY(copy, struct page, 1);

struct iter_meta {
	void *seq;
};

struct task_iter {
	struct iter_meta *meta;
	void *task;
};

int bpf_iter__task(struct task_iter *ctx)
{
	char *task = ctx->task;
	u32 zero = 0;
	struct page *page = copy.lookup(&zero);

	if (!task || !page)
		return 0;

	u64 stack = *(u64 volatile *)(task + TASK_STRUCT_STACK);
	u32 tid = *(u32 volatile *)(task + TASK_STRUCT_PID);
#pragma unroll
	for (int i = 0; i < COPIED_PAGES; i++)
		bpf_probe_read_kernel(page, sizeof(*page), (void *)(stack + i * PAGE_BYTES));
	bpf_seq_write(ctx->meta->seq, &tid, sizeof(tid));
	return 0;
}
