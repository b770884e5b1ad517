// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Takes page faults in a known mode, on the CPU on which it was started.
 *
 * Usage: page_faults user|kernel PAGES [SECONDS]. Touches each page once, or reads into it;
 * with SECONDS it does that evenly spread, PAGES a second.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096L
#define TICKS_A_SECOND 100

static void take(char *memory, long pages, int zero)
{
	for (long at = 0; at < pages; at++)
		if (zero < 0)
			memory[at * PAGE] = 1;
		else if (read(zero, memory + at * PAGE, PAGE) != PAGE)
			exit(1);
}

int main(int count, char **arguments)
{
	int zero = strcmp(arguments[1], "kernel") ? -1 : open("/dev/zero", O_RDONLY);
	long pages = atol(arguments[2]);
	long ticks = count > 3 ? atol(arguments[3]) * TICKS_A_SECOND : 1;
	long a_tick = count > 3 ? pages / TICKS_A_SECOND : pages;
	char *memory =
	    mmap(NULL, a_tick * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct timespec due;

	if (memory == MAP_FAILED || madvise(memory, a_tick * PAGE, MADV_NOHUGEPAGE))
		return 1;
	clock_gettime(CLOCK_MONOTONIC, &due);
	for (long tick = 0; tick < ticks; tick++) {
		take(memory, a_tick, zero);
		if (ticks == 1)
			break;
		madvise(memory, a_tick * PAGE, MADV_DONTNEED);
		due.tv_nsec += 1000000000 / TICKS_A_SECOND;
		due.tv_sec += due.tv_nsec / 1000000000;
		due.tv_nsec %= 1000000000;
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL);
	}
	return 0;
}
