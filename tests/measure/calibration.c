// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * In nanoseconds: what touching a fresh page takes where pages come and go, so that the kernel
 * hands out one just freed, which is in the cache; what the kernel takes to clear one; and what
 * the touch takes where all memory is new. Medians, with no line in common with
 * measure/calibration.py.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096L
#define PAGES 8192L
#define A_READ 256L
#define READS 500
#define TURNS 99

static double taken[PAGES];

static double now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1e9 + now.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
	double left = *(const double *)a, right = *(const double *)b;

	return (left > right) - (left < right);
}

static double median(long count)
{
	qsort(taken, count, sizeof(*taken), by_value);
	return taken[count / 2];
}

/* What two looks at the clock take by themselves. */
static double clock_ns(void)
{
	for (long at = 0; at < PAGES; at++) {
		double before = now_ns();
		taken[at] = now_ns() - before;
	}
	return median(PAGES);
}

/* Touches a MiB of them, and gives what each took on average: some take a page table too. */
static double fault_ns(char *memory)
{
	double before = now_ns();

	for (long at = 0; at < A_READ; at++)
		memory[at * PAGE + 64] = 1;
	return (now_ns() - before) / A_READ;
}

static char *fresh(void)
{
	char *memory =
	    mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	madvise(memory, PAGES * PAGE, MADV_NOHUGEPAGE);
	return memory;
}

double cold_fault(void)
{
	char *memory = fresh();

	for (long at = 0; at < PAGES; at += A_READ)
		taken[at / A_READ] = fault_ns(memory + at * PAGE);
	munmap(memory, PAGES * PAGE);
	return median(PAGES / A_READ);
}

double fault(void)
{
	char *memory = fresh();

	for (long at = 0; at < TURNS; at++) {
		madvise(memory, PAGES * PAGE, MADV_DONTNEED);
		taken[at] = fault_ns(memory);
	}
	munmap(memory, PAGES * PAGE);
	return median(TURNS);
}

double clear_page(void)
{
	int zero = open("/dev/zero", O_RDONLY);
	char *memory = fresh();
	double overhead = clock_ns();

	for (long at = 0; at < READS; at++) {
		double before;

		/* in the cache as far as pages just touched are */
		madvise(memory, A_READ * PAGE, MADV_DONTNEED);
		fault_ns(memory);
		before = now_ns();
		if (read(zero, memory, A_READ * PAGE) != A_READ * PAGE)
			return -1;
		taken[at] = (now_ns() - before - overhead) / A_READ;
	}
	munmap(memory, PAGES * PAGE);
	close(zero);
	return median(READS);
}
