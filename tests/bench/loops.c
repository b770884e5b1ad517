// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The loops that a tool may slow down, timed from within one small static process.
 *
 * Usage: loops CPU. Each line of input, "LOOP MILLISECONDS", is answered with the
 * nanoseconds that one turn of that loop took, the median. All that it starts stays on that CPU.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SWITCHES_A_TURN 64 /* so that reading the clock is negligible */
#define TOUCHED_PAGES 2048

static int ping[2], pong[2];

static void check(int result, const char *what)
{
	if (result < 0) {
		perror(what);
		exit(1);
	}
}

static long long now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* The least that a fork can be: no exec, nothing written. */
static long fork_and_exit(void)
{
	pid_t child = fork();

	check(child, "fork");
	if (!child)
		_exit(0);
	check(waitpid(child, NULL, 0), "waitpid");
	return 1;
}

/* What shells and supervisors do all day. */
static long fork_exec_and_exit(void)
{
	pid_t child = vfork();

	check(child, "vfork");
	if (!child) {
		execl("/bin/true", "true", NULL);
		_exit(1);
	}
	check(waitpid(child, NULL, 0), "waitpid");
	return 1;
}

/* A byte to a partner on the same CPU and back: each way is one context switch. */
static long switch_context(void)
{
	char byte = 0;

	for (int i = 0; i < SWITCHES_A_TURN; i += 2) {
		check(write(ping[1], &byte, 1), "write");
		check(read(pong[0], &byte, 1), "read");
	}
	return SWITCHES_A_TURN;
}

/* The next page of untouched memory. */
static char *fresh_page(void)
{
	static char *memory;
	static long used;

	if (!memory) {
		memory = mmap(NULL, TOUCHED_PAGES * 4096L, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (memory == MAP_FAILED)
			check(-1, "mmap");
		check(madvise(memory, TOUCHED_PAGES * 4096L, MADV_NOHUGEPAGE), "madvise");
	}
	if (used == TOUCHED_PAGES) {
		check(madvise(memory, TOUCHED_PAGES * 4096L, MADV_DONTNEED), "madvise");
		used = 0;
	}
	return memory + used++ * 4096;
}

/* Its first use in user mode. */
static long fault(void)
{
	*fresh_page() = 1;
	return 1;
}

/* Its first use by the kernel. */
static long kernel_fault(void)
{
	static int zero = -1;

	if (zero < 0)
		check(zero = open("/dev/zero", O_RDONLY), "/dev/zero");
	check(read(zero, fresh_page(), 1), "read");
	return 1;
}

static void start_partner(void)
{
	char byte;

	check(pipe(ping), "pipe");
	check(pipe(pong), "pipe");
	pid_t child = fork();
	check(child, "fork");
	if (child)
		return;
	close(ping[1]); /* so that the partner ends when we do */
	while (read(ping[0], &byte, 1) == 1)
		check(write(pong[1], &byte, 1), "write");
	_exit(0);
}

static int by_value(const void *a, const void *b)
{
	float left = *(const float *)a, right = *(const float *)b;

	return (left > right) - (left < right);
}

/* The median, as few turns meet an interrupt or a hypervisor that is busy elsewhere. */
static double ns_a_turn(long (*turn)(void), long milliseconds)
{
	static float taken[1 << 16];
	long long began = now_ns(), before = began;
	size_t count = 0;

	while (before - began < milliseconds * 1000000LL &&
	       count < sizeof(taken) / sizeof(*taken)) {
		long turns = turn();
		long long now = now_ns();
		taken[count++] = (float)(now - before) / turns;
		before = now;
	}
	qsort(taken, count, sizeof(*taken), by_value);
	return taken[count / 2];
}

int main(int count, char **arguments)
{
	cpu_set_t cpus;
	char loop[16];
	long milliseconds;

	CPU_ZERO(&cpus);
	CPU_SET(count > 1 ? atoi(arguments[1]) : 0, &cpus);
	check(sched_setaffinity(0, sizeof(cpus), &cpus), "sched_setaffinity");
	start_partner();
	while (scanf("%15s %ld", loop, &milliseconds) == 2) {
		long (*turn)(void) = !strcmp(loop, "exit")     ? fork_and_exit
				     : !strcmp(loop, "exec")   ? fork_exec_and_exit
				     : !strcmp(loop, "fault")  ? fault
				     : !strcmp(loop, "kfault") ? kernel_fault
							       : switch_context;
		printf("%.1f\n", ns_a_turn(turn, milliseconds));
		fflush(stdout);
	}
	return 0;
}
