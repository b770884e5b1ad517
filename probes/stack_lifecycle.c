// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Which stacks were created, reused and freed, and how deep had they grown? And how deep are the
 * live ones, counted by shape?
 *
 * Three raw tracepoints update per-CPU counters; no event is sent to user space. The two iterators
 * count the live stacks into one struct that user space maps, so its work does not grow with the
 * number of tasks. The stack of a task that has not run since the last scan is not read again.
 */
#include "idle.h"

/* Exits copy their stacks on several CPUs at once, and may preempt the (only) scan. */
BPF_PERCPU_ARRAY(exit_scratch, struct scratch, 1);
BPF_ARRAY(scratch, struct scratch, 1);

/* Mapped by user space, which may no longer call bpf(). */
BPF_F_TABLE("array", u32, struct lifecycle_counters, lifecycle, POSSIBLE_CPUS, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, struct living_counters, living, 1, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, struct exit_proof, exit_proof, 1, BPF_F_MMAPABLE);

BPF_F_TABLE("hash", u64, struct cgroup_counters, cgroups, MAX_CGROUPS, BPF_F_NO_PREALLOC);

#ifdef KERNFS_NODE_NAME
/* Ids of the cgroups whose names user space wants; 0: none. */
BPF_F_TABLE("array", u32, u64, asked, ASKED_CGROUPS, BPF_F_MMAPABLE);
BPF_ARRAY(name_scratch, struct cgroup_name, 1);
#endif

/* Stacks lie this far apart in one range of addresses, so they rarely collide in caches that are
 * indexed by address. */
#define STACK_STRIDE 32768

/*
 * What is known of the stack at an address: either its task has exited, and it may be in the
 * kernel's stack cache, or it is live and had more than one page from the start. A direct-mapped
 * cache: a hash map costs each fork and exit 1 us more.
 */
struct known_stack {
	u64 stack;    /* 0: free slot */
	u64 identity; /* see identity_of() */
	u32 held_pages;
	u32 left; /* its task has exited */
};

BPF_ARRAY(known_stacks, struct known_stack, KNOWN_SLOTS);

/*
 * What the last scan saw of a task. Direct-mapped too: of two that collide, one is read again.
 */
struct last_seen {
	u64 task; /* seen_tag() */
	u32 switches;
	u16 mark_words;
	u8 touched_pages;
	u8 inherited_pages : 4;
	u8 is_seen : 1;
	u8 is_erased : 1;
};

BPF_ARRAY(seen, struct last_seen, SEEN_SLOTS);

#ifdef RECORD_EVENTS
/* For tests: a log of all events, from which the counters can be recomputed. */
struct lifecycle_event {
	u64 what; /* 1 created, 2 exited, 3 address freed */
	u64 stack;
	u64 vm;
	u64 page;
	u64 touched_pages;
};
BPF_F_TABLE("array", u32, struct lifecycle_event, events, RECORD_EVENTS, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, u64, event_count, 1, BPF_F_MMAPABLE);
#endif

/* A stack's vm_struct and its first page: a new stack differs in at least one of them. */
static __always_inline u64 vm_of(u64 task)
{
	return PEEK(task, TASK_STRUCT_STACK_VM_AREA);
}

static __always_inline u64 first_page_of(u64 vm)
{
	return PEEK_AT(PEEK(vm, VM_STRUCT_PAGES), sizeof(u64));
}

static __always_inline void record(u64 what, u64 stack, u64 task, u64 touched_pages)
{
#ifdef RECORD_EVENTS
	u32 first = 0;
	u64 *count = event_count.lookup(&first);
	u32 at = count ? __sync_fetch_and_add(count, 1) : RECORD_EVENTS;
	struct lifecycle_event *event = events.lookup(&at);

	if (!event)
		return;
	event->what = what;
	event->stack = stack;
	event->vm = vm_of(task);
	event->page = first_page_of(event->vm);
	event->touched_pages = touched_pages;
#endif
}

static __always_inline u32 mark_pages_of(u32 touched_pages)
{
	u32 pages = 1;

#pragma unroll
	for (u32 page = 1; page < COUNTED_PAGES; page++)
		if (touched_pages >> page & 1)
			pages = page + 1;
	return pages;
}

static __always_inline u32 shape_of(u32 mark_pages, u32 inherited_pages)
{
	return ((mark_pages - 1) * COUNTED_PAGES + inherited_pages - 1) & (COUNTED_SHAPES - 1);
}

static __always_inline void count_skipped(u64 *skipped, u32 touched_pages, u32 mark_pages,
					  u32 inherited_pages)
{
#pragma unroll
	for (u32 page = 1; page < COUNTED_PAGES; page++)
		if (page >= inherited_pages && page < mark_pages && !(touched_pages >> page & 1))
			__sync_fetch_and_add(&skipped[page], 1);
}

/* Index into growth[]. */
static __always_inline u32 age_bucket(u64 age_ns)
{
	u64 seconds = age_ns / 1000000000;

	return seconds < 1	? 0
	       : seconds < 10	? 1
	       : seconds < 60	? 2
	       : seconds < 600	? 3
	       : seconds < 3600 ? 4
				: 5;
}

static __always_inline u32 seen_slot(u64 stack)
{
	return stack / STACK_STRIDE % SEEN_SLOTS;
}

static __always_inline u32 known_slot(u64 stack)
{
	return stack / STACK_STRIDE % KNOWN_SLOTS;
}

static __always_inline u64 seen_tag(u64 stack, u64 start_boot_ns)
{
	return stack ^ start_boot_ns << 20 ^ start_boot_ns >> 44;
}

/*
 * Tells a cached stack from a new one at its address. Not needed where a tracepoint reports freed
 * addresses.
 */
static __always_inline u64 identity_of(u64 task)
{
#ifdef VMAP_FREE_TRACEPOINT
	return 0;
#else
	u64 vm = vm_of(task);
	u64 page = first_page_of(vm);
	return vm ^ (page << 32 | page >> 32);
#endif
}

/*
 * Whether a task has grown by a page or more since the last scan. `before`: what its slot held
 * then.
 */
static __always_inline bool has_grown(struct last_seen *before, u64 tag, u32 mark_pages,
				      u64 start_boot_ns, u64 last_scan_boot_ns)
{
	if (before->is_seen && before->task == tag)
		return mark_pages > mark_pages_of(before->touched_pages);
	return start_boot_ns > last_scan_boot_ns && mark_pages > 1;
}

/* One event in this many is timed for all; the stack of such an exit is read whole. */
#ifndef CHECKED_EVENTS
#define CHECKED_EVENTS 64
#endif

static __always_inline u64 begin_event(u64 number)
{
	return number % CHECKED_EVENTS ? 0 : bpf_ktime_get_ns();
}

/*
 * Increments, and returns the old value. BPF has no fetch-and-add before commit 5ca419f2864a ("bpf:
 * Add BPF_FETCH field"), in 5.12: an event that preempts another here gets the same number, which
 * only serves to pick samples.
 */
static __always_inline u64 fetch_inc(u64 *counter)
{
	u64 before = *(volatile u64 *)counter;

	__sync_fetch_and_add(counter, 1);
	return before;
}

static __always_inline void end_event(struct lifecycle_counters *c, u64 began)
{
	if (began)
		__sync_fetch_and_add(&c->run_ns, (bpf_ktime_get_ns() - began) * CHECKED_EVENTS);
}

int on_new_task(struct bpf_raw_tracepoint_args *ctx)
{
	u64 task = ctx->args[0];
	u32 cpu = bpf_get_smp_processor_id();
	struct lifecycle_counters *c = lifecycle.lookup(&cpu);
	u64 stack = PEEK(task, TASK_STRUCT_STACK);
	u32 slot = known_slot(stack);
	struct known_stack *known = known_stacks.lookup(&slot);

	if (!c || !known)
		return 0;
	u64 began = begin_event(fetch_inc(&c->created));
	record(1, stack, task, 0);
	if (known->stack == stack) {
		if (known->identity == identity_of(task)) {
			__sync_fetch_and_add(&c->reused, 1);
			known->left = 0;
			if (known->held_pages == 1)
				known->stack = 0;
		} else { /* a new stack at its address */
			known->stack = 0;
		}
	}
	end_event(c, began);
	return 0;
}

/*
 * Windows are trusted once enough grown stacks, read whole on any CPU, had no page that windows
 * miss. One that has makes all CPUs read whole stacks until that many have passed again.
 */
static __always_inline bool windows_are_trusted(struct exit_proof *proof)
{
	return proof->needed && proof->shown >= proof->needed;
}

static __always_inline void update_proof(struct exit_proof *proof, struct lifecycle_counters *c,
					 bool trusted, bool whole, bool is_hidden, u32 touched)
{
	if (!whole) {
		__sync_fetch_and_add(&c->windowed, 1);
		return;
	}
	if (trusted)
		__sync_fetch_and_add(&c->checked, 1);
	if (is_hidden) {
		proof->shown = 0;
		__sync_fetch_and_add(&c->hidden, 1);
		if (trusted) {
			__sync_fetch_and_add(&c->caught, 1);
			__sync_fetch_and_add(&c->missed, CHECKED_EVENTS - 1);
		}
	} else if (!trusted && touched > 1) { /* not once trusted: all CPUs share this cache line */
		__sync_fetch_and_add(&proof->shown, 1);
	}
}

/* For an exited stack with more than one used page. */
static __always_inline void count_growth(struct lifecycle_counters *c, struct last_seen *before,
					 u32 touched, u32 inherited, u64 tag, u64 start_boot_ns)
{
	u32 zero = 0;
	u32 mark = mark_pages_of(touched);
	struct living_counters *scan = living.lookup(&zero);

	count_skipped(c->skipped, touched, mark, inherited);
	if (!scan || !has_grown(before, tag, mark, start_boot_ns, scan->last_scan_boot_ns))
		return;
	u32 bucket = age_bucket(bpf_ktime_get_boot_ns() - start_boot_ns);
	if (bucket < GROWTH_AGES)
		__sync_fetch_and_add(&c->growth[bucket], 1);
}

int on_exit(void *ctx)
{
	void *task = current_task(); /* sched_process_exit's own argument has no type */
	void *vm = OWN_POINTER(task, TASK_STRUCT_STACK_VM_AREA);
	u32 zero = 0;
	u32 cpu = bpf_get_smp_processor_id();
	struct lifecycle_counters *c = lifecycle.lookup(&cpu);
	struct scratch *s = exit_scratch.lookup(&zero);
	struct exit_proof *proof = exit_proof.lookup(&zero);

	if (!c || !s || !proof)
		return 0;
	u64 stack = forget(s, OWN_FIELD(task, TASK_STRUCT_STACK)); /* now a scalar */
	u32 slot = seen_slot(stack);
	struct last_seen *before = seen.lookup(&slot);
	u32 known_at = known_slot(stack);
	struct known_stack *known = known_stacks.lookup(&known_at);
	if (!before || !known)
		return 0;
	u64 began = begin_event(fetch_inc(&c->exits));
	u32 vm_pages = OWN_FIELD(vm, VM_STRUCT_NR_PAGES); /* see readable_pages() */
	if (!stack || !vm_pages) {
		__sync_fetch_and_add(&c->unread, 1);
		return 0;
	}
	u64 start = OWN_FIELD(task, TASK_STRUCT_START_BOOTTIME);
	u64 tag = seen_tag(stack, start);
	u64 stack_bytes =
	    VM_AREA_BYTES(OWN_FIELD(vm, VM_STRUCT_SIZE), OWN_FIELD(vm, VM_STRUCT_FLAGS));
	/* forget(): else the verifier walks what follows once per path to here. */
	bool trusted = forget(s, windows_are_trusted(proof));
	bool whole = forget(s, began || !trusted);
	bool is_hidden;
	u32 touched = touched_pages_of_own(s, stack, stack_bytes, vm_pages, whole, &is_hidden);
	touched = forget(s, touched);
	update_proof(proof, c, trusted, whole, forget(s, is_hidden), touched);
	touched = forget(s, touched);
	if (before->is_seen && before->task == tag)
		touched |= before->touched_pages;
	u64 task_address = forget(s, (u64)task);
	u64 identity = identity_of(task_address);
	record(2, stack, task_address, touched);

	u32 inherited = 1;
	if (known->stack == stack && !known->left && known->identity == identity)
		inherited = known->held_pages;
	u32 mark = mark_pages_of(touched);
	u32 shape = shape_of(mark, inherited);
	__sync_fetch_and_add(&c->exited[shape], 1);
	if (mark > 1)
		count_growth(c, before, touched, inherited, tag, start);

	if (known->stack && known->stack != stack && !known->left)
		__sync_fetch_and_add(&c->unremembered, 1);
	known->identity = identity;
	known->held_pages = mark > inherited ? mark : inherited;
	known->left = 1;
	known->stack = stack;
	end_event(c, began);
	return 0;
}

#ifdef VMAP_FREE_TRACEPOINT
/* vmalloc:free_vmap_area_noflush: an address range is freed, whatever it held. */
int on_vmap_free(struct bpf_raw_tracepoint_args *ctx)
{
	u64 stack = ctx->args[0];

	u32 slot = known_slot(stack);
	struct known_stack *known = known_stacks.lookup(&slot);

	record(3, stack, 0, 0);
	if (known && known->stack == stack)
		known->stack = 0;
	return 0;
}
#endif

static __always_inline void count_living(struct living_counters *scan, struct scratch *s, u32 kind,
					 u32 touched, u32 inherited)
{
	u32 mark = mark_pages_of(touched);
	/* forget(): clang turns + into | and masks before it, and to the verifier of Linux 6.1 the
	 * | of two variables is unbounded. */
	u32 at = forget(s, kind * COUNTED_SHAPES + shape_of(mark, inherited)) &
		 (COUNTED_KINDS * COUNTED_SHAPES - 1);

	scan->stacks[at]++;
	count_skipped(scan->skipped, touched, mark, inherited);
}

static __always_inline void note_mark(struct living_counters *scan, u64 mark_bytes)
{
	if (mark_bytes > scan->deepest_mark_bytes)
		scan->deepest_mark_bytes = mark_bytes;
}

/* How many pages a task's stack had from the start; 1 if that is not known. */
static __always_inline u32 inherited_pages_of(struct scratch *s, void *task, u64 stack)
{
	u32 at = known_slot(stack);
	struct known_stack *known = known_stacks.lookup(&at);

	if (!known || known->stack != stack || known->left)
		return 1;
	return known->identity == identity_of(forget(s, (u64)task)) ? known->held_pages : 1;
}

/*
 * Reads a task's stack, and stores what it finds. False if there is nothing to count: the task has
 * exited, or its stack can't be read.
 */
static __always_inline bool reread_stack(struct scratch *s, struct living_counters *scan,
					 struct last_seen *before, void *task, u64 stack, u64 start)
{
	struct stack_record *r = &s->record;
	void *vm = POINTER(task, TASK_STRUCT_STACK_VM_AREA);
	u64 vm_bytes = FIELD(vm, VM_STRUCT_SIZE);
	u64 tag = seen_tag(stack, start);

	if (!vm_bytes)
		return false;
	r->flags = 0;
	r->stack = stack;
	r->stack_bytes = VM_AREA_BYTES(vm_bytes, FIELD(vm, VM_STRUCT_FLAGS));
	scan_stack(s, readable_pages(task, r->stack_bytes, FIELD(vm, VM_STRUCT_NR_PAGES)));
	if (FIELD(task, TASK_STRUCT_STACK) != stack)
		return false; /* it exited meanwhile */
	if (r->flags & FLAG_UNREADABLE) {
		scan->unreadable++;
		return false;
	}
	scan->reread++;
	scan->stack_bytes = r->stack_bytes;
	u32 touched = r->touched_pages;
	if (has_grown(before, tag, mark_pages_of(touched), start, scan->last_scan_boot_ns)) {
		u32 bucket = age_bucket(bpf_ktime_get_boot_ns() - start);
		if (bucket < GROWTH_AGES)
			scan->growth[bucket]++;
	}
	if (!before->is_seen || before->task != tag)
		before->inherited_pages = inherited_pages_of(s, task, stack);
	before->task = tag;
	before->mark_words = r->mark_bytes / 8;
	before->touched_pages = touched;
	before->is_seen = 1;
	before->is_erased = !!(r->flags & FLAG_ERASED);
	return true;
}

/* Counts a stack of a cgroup that holds `held` pages in this scan. */
static __always_inline void count_in_cgroup(struct living_counters *scan, u64 node, u64 cgroup,
					    u64 session, u32 held)
{
	struct cgroup_counters *group = cgroups.lookup(&cgroup);

	if (!group) {
		struct cgroup_counters none = {};
		cgroups.update(&cgroup, &none);
		group = cgroups.lookup(&cgroup);
		if (!group) {
			scan->uncounted_cgroups++;
			return;
		}
	}
	if (group->scan != session) {
		__builtin_memset(group->held, 0, sizeof(group->held));
		group->scan = session;
		group->node = node;
	}
	group->held[(held - 1) & (COUNTED_PAGES - 1)]++;
}

int bpf_iter__task(struct task_iter *ctx)
{
	void *task = ctx->task;
	u32 zero = 0;
	struct living_counters *scan = living.lookup(&zero);
	struct scratch *s = scratch.lookup(&zero);

	if (!scan || !s)
		return 0;
	if (!task) {
		scan->ended_boot_ns = bpf_ktime_get_boot_ns();
		return 0;
	}

	/* forget(): the verifier rejects arithmetic on pointers. */
	u64 stack = forget(s, FIELD(task, TASK_STRUCT_STACK));
	u32 flags = FIELD(task, TASK_STRUCT_FLAGS);
	void *css_set = POINTER(task, TASK_STRUCT_CGROUPS);
	u64 start = FIELD(task, TASK_STRUCT_START_BOOTTIME);
	u32 switches = FIELD(task, TASK_STRUCT_NVCSW) + FIELD(task, TASK_STRUCT_NIVCSW);
	u32 on_cpu = ON_CPU(FIELD, task);

	if (!stack)
		return 0; /* a zombie: its stack is already freed */
	u32 slot = seen_slot(stack);
	struct last_seen *before = seen.lookup(&slot);
	if (!before)
		return 0;
	bool known_task = before->is_seen && before->task == seen_tag(stack, start);

	/* No context switch since, and not on a CPU now: it can't have grown. */
	if (!known_task || on_cpu || before->switches != switches) {
		if (!reread_stack(s, scan, before, task, stack, start))
			return 0;
		before->switches = switches;
	}
	if (before->is_erased)
		scan->erased++;
	note_mark(scan, before->mark_words * 8);
	u32 touched = before->touched_pages;
	u32 inherited = before->inherited_pages;
	count_living(scan, s, kind_of(flags), touched, inherited);

	u32 mark = mark_pages_of(touched);
	void *node = cgroup_node_of(css_set);
	u64 cgroup = FIELD(node, KERNFS_NODE_ID);
	count_in_cgroup(scan, forget(s, (u64)node), cgroup,
			FIELD(ctx->meta, BPF_ITER_META_SESSION_ID),
			mark > inherited ? mark : inherited);
	return 0;
}

static __always_inline int count_idle(struct map_iter *ctx)
{
	u32 zero = 0;
	struct living_counters *scan = living.lookup(&zero);
	struct scratch *s = scratch.lookup(&zero);

	if (!s || !scan || !read_idle_stack(s, ctx->key))
		return 0;
	struct stack_record *r = &s->record;
	if (r->flags & FLAG_STATIC)
		scan->boot_idle_mark_bytes = r->mark_bytes;
	else if (r->flags & FLAG_UNREADABLE)
		scan->unreadable++;
	else {
		note_mark(scan, r->mark_bytes);
		count_living(scan, s, KIND_IDLE, r->touched_pages, 1);
	}
	return 0;
}

#ifdef KERNFS_NODE_NAME
/*
 * Writes the names of a cgroup and its ancestors, one per record. The scan stored the address of
 * its node, which may have been freed since: the last record, the root's, is written only if the
 * node is still that cgroup's, and never beyond MOST_LEVELS.
 */
static __always_inline void write_names(void *seq, u64 cgroup)
{
	u32 zero = 0;
	struct cgroup_counters *group = cgroups.lookup(&cgroup);
	struct cgroup_name *r = name_scratch.lookup(&zero);

	if (!group || !r)
		return;
	u64 node = group->node;
	r->cgroup_id = cgroup;
	for (u32 level = 0; level < MOST_LEVELS; level++) {
		u64 above = PEEK_AT(node + KERNFS_NODE_PARENT, sizeof(u64));

		r->is_root = !above;
		r->name[0] = 0;
		bpf_probe_read_kernel_str(r->name, sizeof(r->name),
					  (void *)PEEK_AT(node + KERNFS_NODE_NAME, sizeof(u64)));
		if (!above && (!PEEK(group->node, KERNFS_NODE_COUNT_COUNTER) ||
			       PEEK(group->node, KERNFS_NODE_ID) != cgroup))
			return;
		bpf_seq_write(seq, r, sizeof(*r));
		if (!above)
			return;
		node = above;
	}
}
#endif

/* Walks the CPUs in each scan, and `asked` when user space wants names. */
int bpf_iter__bpf_map_elem(struct map_iter *ctx)
{
#ifdef KERNFS_NODE_NAME
	if (ctx->value && *ctx->value) {
		write_names(POINTER(ctx->meta, BPF_ITER_META_SEQ), *ctx->value);
		return 0;
	}
#endif
	return count_idle(ctx);
}
