/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The zero-scan. Linux zeroes every kernel stack before use, fresh or cached (commit
 * e01e80634ecd ("fork: unconditionally clear stack on fork"), in 4.17), and a stack grows
 * down, so its lowest non-zero word is its high-water mark.
 */
#ifndef HIGH_WATER_H
#define HIGH_WATER_H

#include "records.h"

#define PAGE_BYTES 4096
#define PAGE_WORDS 512
#define CHUNK_WORDS 16
#define MAX_STACK_PAGES 16 /* 64 KiB; x86-64 has 4 pages, 8 with KASAN */

/*
 * KSTACK_ERASE_POISON (STACKLEAK_POISON before 6.17): what __stackleak_erase() writes in place of
 * zero.
 */
#define ERASE_POISON 0xFFFFFFFFFFFF4111ULL /* -0xBEEF */

/* USED_BITS(): zero if the word was never used. Branch-free: the verifier accepts only 8,192
 * branches in a row. */
#ifdef KSTACK_ERASE
#define NOT_ZERO(word) ((word) | -(word)) /* sets the top bit */
#define USED_BITS(word) (NOT_ZERO(word) & NOT_ZERO((word) ^ ERASE_POISON) & (1ULL << 63))
#define UNROLL _Pragma("clang loop unroll(full)") /* a third of the verifier's work */
#else
#define USED_BITS(word) (word)
#define UNROLL _Pragma("clang loop unroll(disable)") /* a third of clang's work */
#endif

struct scratch {
	struct stack_record record;
	u64 page[PAGE_WORDS];
	u64 slot; /* see forget() */
};

/*
 * Returns `value`, passed through memory so that the verifier forgets its bounds and walks what
 * follows once, not once per path to it (57,000 instructions instead of 840,000).
 */
static __always_inline u64 forget(struct scratch *s, u64 value)
{
	*(volatile u64 *)&s->slot = value;
	return *(volatile u64 *)&s->slot;
}

#define USED_2(p, i) (USED_BITS((p)[i]) | USED_BITS((p)[(i) + 1]))
#define USED_4(p, i) (USED_2(p, i) | USED_2(p, (i) + 2))
#define USED_16(p, i) (USED_4(p, i) | USED_4(p, (i) + 4) | USED_4(p, (i) + 8) | USED_4(p, (i) + 12))

/* Index of the lowest used word of the copied page; PAGE_WORDS if there is none. */
static __always_inline u32 lowest_used_word(struct scratch *s)
{
	u32 chunk;
	u32 i;

	UNROLL
	for (chunk = 0; chunk < PAGE_WORDS; chunk += CHUNK_WORDS)
		if (USED_16(s->page, chunk))
			break;
	chunk = forget(s, chunk);
	if (chunk >= PAGE_WORDS)
		return PAGE_WORDS;
	for (i = 0; i < CHUNK_WORDS; i++)
		if (USED_BITS(s->page[(chunk + i) & (PAGE_WORDS - 1)]))
			break;
	return forget(s, chunk + i);
}

/*
 * Fills in touched_pages, resident_pages and mark_bytes of the record from its
 * stack and stack_bytes. Only the first `readable` pages from the top are read.
 */
static __always_inline void scan_stack(struct scratch *s, u64 readable)
{
	struct stack_record *r = &s->record;

	r->mark_bytes = 0;
	r->touched_pages = 0;
	r->resident_pages = 0;
	/* Upwards, which the hardware prefetches: 23% faster than downwards. */
	for (u32 i = 0; i < MAX_STACK_PAGES; i++) {
		if (i >= forget(s, readable))
			break;
		u32 page = forget(s, readable - 1 - i);
		u64 address = r->stack + r->stack_bytes - (page + 1) * PAGE_BYTES;
		if (bpf_probe_read_kernel(s->page, PAGE_BYTES, (void *)address))
			continue;
		r->resident_pages |= 1 << page;
		if (address == r->stack)
			s->page[0] = 0; /* STACK_END_MAGIC, not use */
#ifdef KSTACK_ERASE
		if (s->page[1] == ERASE_POISON)
			r->flags |= FLAG_ERASED;
#endif
		u32 word = lowest_used_word(s);
		if (word >= PAGE_WORDS)
			continue;
		r->touched_pages |= 1 << page;
		if (!r->mark_bytes)
			r->mark_bytes = (page + 1) * PAGE_BYTES - word * 8;
	}
	if (!(r->resident_pages & 1))
		r->flags |= FLAG_UNREADABLE;
}

/*
 * How many bytes of each page an exit reads: the first ones, as a stack that grew into the page
 * left return addresses there. On Linux 6.18 all of 1,357 such pages had a used word in the first
 * 128.
 */
#ifndef WINDOW_BYTES
#define WINDOW_BYTES 512
#endif

/* Whether any of `bytes`, a constant, of a stack were used. Also false if they can't be read. */
static __always_inline bool is_used(struct scratch *s, u64 address, u64 stack, u32 bytes)
{
	u32 word;

	if (bpf_probe_read_kernel(s->page, bytes, (void *)address))
		return false;
	if (address == stack)
		s->page[0] = 0; /* STACK_END_MAGIC, not use */
	UNROLL
	for (word = 0; word < bytes / 8; word += CHUNK_WORDS)
		if (USED_16(s->page, word))
			break;
	return forget(s, word) < bytes / 8;
}

/*
 * touched_pages of the current stack. Its top page is in use and need not be read. The first window
 * without a used word ends the search, unless the `whole` stack is to be read; then *is_hidden
 * tells whether windows alone would have missed a page.
 */
static __always_inline u32 touched_pages_of_own(struct scratch *s, u64 stack, u64 stack_bytes,
						u64 readable, bool whole, bool *is_hidden)
{
	u64 touched = 1;
	u64 shown = 1; /* by windows */

	for (u32 page = 1; page < MAX_STACK_PAGES; page++) {
		if (page >= forget(s, readable))
			break;
		u64 lowest = stack + stack_bytes - (page + 1) * PAGE_BYTES;
		u64 window = lowest + PAGE_BYTES - WINDOW_BYTES;
		if (is_used(s, window, stack, WINDOW_BYTES))
			shown = forget(s, shown | 1 << page);
		else if (!forget(s, whole))
			break;
		else if (is_used(s, lowest, stack, PAGE_BYTES - WINDOW_BYTES))
			touched = forget(s, touched | 1 << page);
	}
	touched |= shown;
	*is_hidden = touched != (shown & ~(shown + 1));
	return touched;
}

#endif
