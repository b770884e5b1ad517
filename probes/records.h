/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the probes pass to user space, defined once: measure/records.py parses these structs, so
 * they use only u64, u32, char and arrays of these, without padding or nesting.
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

#define UNKNOWN (~0ULL) /* all ones, in fields that say so */

/* stack_record.syscall: a 32-bit call, numbered differently */
#define SYSCALL_IA32 4294967296

/* One task's kernel stack. Page 0 is the top one, where a stack begins. */
struct stack_record {
	u64 stack;	   /* lowest address */
	u64 cgroup_id;	   /* in the default (v2) hierarchy */
	u64 switches;	   /* voluntary and involuntary context switches */
	u64 start_boot_ns; /* task creation, CLOCK_BOOTTIME */
	u64 asleep_ns;	   /* since it last ran; 0 if it is running; all ones: unknown */
	u64 syscall;	   /* that a user task sleeps in; all ones: none, or unknown */
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

/*
 * Counters of stack_lifecycle.c. Stacks are counted by two numbers of pages: down to the high-water
 * mark, and inherited: those that a grow-only kernel would already have had mapped when the stack
 * was allocated (1 if it was fresh). Index: (mark - 1) * 8 + inherited - 1.
 */
#define COUNTED_PAGES 8 /* THREAD_SIZE up to 32 KiB */
#define COUNTED_SHAPES 64
#define COUNTED_KINDS 4
#define GROWTH_AGES 6 /* under 1 s, 10 s, 1 min, 10 min, 1 h, older */

/* Of one CPU, monotonic since the probe was loaded. */
struct lifecycle_counters {
	u64 created;
	u64 reused;	  /* of those: on an earlier task's stack, from the cache */
	u64 exits;	  /* exited[] and unread */
	u64 windowed;	  /* of those: read by windows alone, while these are trusted */
	u64 checked;	  /* of those: read whole while windows are trusted, as a check */
	u64 caught;	  /* of checked: windows would have hidden a page */
	u64 missed;	  /* of windowed: estimate of those with a hidden page, from caught */
	u64 hidden;	  /* of all that were read whole: windows would have hidden a page */
	u64 unread;	  /* exited, but the stack could not be read */
	u64 unremembered; /* live stacks whose inherited pages another's exit evicted */
	u64 exited[64];
	u64 skipped[8]; /* exited stacks with page p below the mark all zero */
	u64 growth[6];	/* tasks grown by a page since the last scan, by age at exit */
	u64 run_ns;	/* of the events in created and exits */
};

/* Whether windows are trusted for exited stacks: shared by all CPUs. */
struct exit_proof {
	u64 shown;  /* grown stacks read whole since one last had a page that windows miss */
	u64 needed; /* trusted from this many on; 0: never, every exit is read whole */
};

/* Live stacks in one scan; user space clears it beforehand. */
struct living_counters {
	u64 stacks[256]; /* by kind, then by shape */
	u64 skipped[8];
	u64 growth[6]; /* tasks grown by a page since the last scan, by age now */
	u64 reread;    /* stacks that had to be read again */
	u64 unreadable;
	u64 erased;	       /* their marks are lower bounds: KSTACK_ERASE */
	u64 uncounted_cgroups; /* stacks whose cgroup did not fit into the map */
	u64 boot_idle_mark_bytes;
	u64 deepest_mark_bytes; /* of all stacks in stacks[] */
	u64 stack_bytes;	/* THREAD_SIZE; 0 if no stack had to be read */
	u64 last_scan_boot_ns;	/* when the scan before this one ended: kept by user space */
	u64 ended_boot_ns;	/* when the task iterator finished; 0 if it did not */
};

/* Live stacks of one cgroup by pages held under a grow-only policy. */
struct cgroup_counters {
	u64 scan; /* the scan that these counts are from */
	u64 node; /* address of its kernfs_node then */
	u64 held[8];
};

/* A cgroup's own name, then that of each ancestor, up to the root of its hierarchy. */
struct cgroup_name {
	u64 cgroup_id;	/* whose names they are */
	u64 is_root;	/* the last, whose own name is empty */
	char name[256]; /* NAME_MAX and a NUL */
};

#define MOST_LEVELS 64

/* Page faults of one CPU since the probe was loaded; fills a cache line. */
struct kernel_page_fault_counters {
	u64 faults;
	u64 unused[7];
};

/* stack_fault.context: where a task was when its stack first used another page. */
#define CONTEXT_SYSCALL 0
#define CONTEXT_FORK_RETURN 1 /* between its creation and user mode */
#define CONTEXT_EXCEPTION 2   /* a page fault or interrupt in user mode */
#define CONTEXT_EXIT 3
#define CONTEXT_KTHREAD 4
#define CONTEXT_WORKER 5 /* a user task that never leaves the kernel: io_uring, vhost */
#define CONTEXT_IDLE 6

/* stack_fault.flags */
#define FAULT_IA32 1   /* a 32-bit system call */
#define FAULT_LATE 2   /* found by a scan, not when it left the kernel */
#define FAULT_HIDDEN 4 /* with CHECK_WINDOW: the window alone would not have shown it */

/* A stack that has grown by one or more pages; see stack_faults.c. */
struct stack_fault {
	u64 stack; /* lowest address */
	u64 cgroup_id;
	u64 start_boot_ns; /* task creation, CLOCK_BOOTTIME */
	u64 found_boot_ns;
	u32 tid;
	u32 tgid;
	u32 context;
	u32 syscall; /* pt_regs.orig_ax; all ones: none */
	u32 flags;
	u32 mark_bytes;
	u32 pages_before; /* down to the previously known mark */
	u32 touched_pages;
	u64 switches; /* context switches of the task so far */
	char comm[16];
};

/* What stack_faults.c counts on one CPU; fills a cache line. */
struct fault_counters {
	u64 syscalls;  /* completed */
	u64 lost;      /* records that did not fit into the ring buffer */
	u64 untracked; /* times a stack found no room in either map */
	u64 unread;
	u64 unused[4];
};

/* One sample of call_paths.c. The stack follows it, from sp up to its top. */
struct path_sample {
	u64 frames[64];	 /* the interrupted ip, then return addresses, innermost first */
	u64 depth_bytes; /* from the top of the stack to sp */
	u64 cgroup_id;
	u32 frame_count;
	u32 tid;
	u32 tgid;
	u32 kind;
	u32 flags;	   /* FAULT_IA32 */
	u32 copied_bytes;  /* depth_bytes, or 0 where the stack could not be read */
	u32 preempt_count; /* of the CPU while the sample is taken; all ones: unknown */
	u32 interrupts_on; /* in the interrupted code */
	char comm[16];
};

/* What call_paths.c counts on one CPU; fills a cache line. */
struct sample_counters {
	u64 taken;     /* all samples, of idle and user time too */
	u64 in_kernel; /* of those: on a task's kernel stack */
	u64 deep;      /* of those: deeper than DEEPER_THAN */
	u64 lost;      /* that did not fit into the ring buffer */
	u64 elsewhere; /* in the kernel, on a per-CPU stack */
	/* Preempt count while a sample of user mode was taken, plus 1; 0: none was. */
	u64 user_preempt_count;
	u64 unused[2];
};

#endif
