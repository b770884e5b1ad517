/*
 * What the probes hand to user space, defined once: measure/records.py reads
 * these structs, so they keep to u64, u32 and char arrays, have no padding
 * and no nesting.
 */
#ifndef RECORDS_H
#define RECORDS_H

#include <linux/types.h>

/* stack_record.kind */
#define KIND_USER 0
#define KIND_USER_WORKER 1 /* io_uring, vhost: user tasks that never leave the kernel */
#define KIND_KTHREAD 2
#define KIND_IDLE 3 /* the pid-0 task of a CPU */

/* stack_record.flags */
#define FLAG_UNREADABLE 1 /* not even the top page could be read */
#define FLAG_STATIC 2	  /* the boot CPU's init_stack: no vmalloc area, not counted */
#define FLAG_ON_CPU 4	  /* depth_bytes is unknown: thread.sp is stale */
#define FLAG_ERASED 8	  /* KSTACK_ERASE overwrote it: the mark is a lower bound */

/* One task's kernel stack. Page 0 is the top one, where a stack begins. */
struct stack_record {
	u64 stack;	   /* lowest address */
	u64 cgroup_id;	   /* in the default (v2) hierarchy */
	u64 switches;	   /* voluntary and involuntary context switches */
	u64 start_boot_ns; /* task creation, CLOCK_BOOTTIME */
	u32 tid;
	u32 tgid;
	u32 kind;
	u32 flags;
	u32 stack_bytes;    /* THREAD_SIZE, from the stack's own vmalloc area */
	u32 mark_bytes;	    /* high-water mark: deepest byte ever used, from the top */
	u32 depth_bytes;    /* from the top to the saved stack pointer */
	u32 touched_pages;  /* bitmap: bit p, page p holds a non-zero word */
	u32 resident_pages; /* bitmap: bit p, page p could be read */
	u32 vm_pages;	    /* stack_vm_area->nr_pages: what the kernel says is mapped */
	char comm[16];
};

#endif
