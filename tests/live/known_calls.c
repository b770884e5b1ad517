// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Tasks that each make one known system call and live from before it until after it.
 *
 * Usage: known_calls FOLDER PARKED CALL=COUNT ... Prints "TID CALL" for each task, then
 * "ready"; makes the calls when it reads a line, prints "done", exits at end of input.
 * Built again with -DPARKED -nostdlib it is what the execve tasks become.
 */
#define _GNU_SOURCE
#include <sys/syscall.h>

#ifdef PARKED
void _start(void)
{
	for (;;) {
		long ignored = SYS_pause;
		__asm__ volatile("syscall" : "+a"(ignored) : : "rcx", "r11", "memory");
	}
}
#else
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define POLLED 1000
#define PIECE (8 * 4096L) /* of the area, for one mmap task */

struct task {
	const char *call;
	int number; /* among those of its call */
	int tid;
	int go, done;
};

static int never;
static struct pollfd polled[POLLED];
static char deep_path[4000];
static const char *parked;
static int udp, netlink, file;
static char *area, *low_area;
static int start_pipe[2];

static void wait_for(int *word)
{
	while (!__atomic_load_n(word, __ATOMIC_ACQUIRE))
		syscall(SYS_futex, word, FUTEX_WAIT, 0, 0, 0, 0);
}

static void set(int *word, int value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
	syscall(SYS_futex, word, FUTEX_WAKE, 1, 0, 0, 0);
}

static void send_to_loopback(void)
{
	struct sockaddr_in to = {
	    .sin_family = AF_INET, .sin_port = htons(9), .sin_addr = {htonl(INADDR_LOOPBACK)}};
	char byte = 0;
	struct iovec part = {&byte, 1};
	struct msghdr message = {
	    .msg_name = &to, .msg_namelen = sizeof(to), .msg_iov = &part, .msg_iovlen = 1};

	syscall(SYS_sendmsg, udp, &message, 0);
}

/* Creating a pair of network devices is among the deepest call paths. */
static void send_new_link(void)
{
	struct {
		struct nlmsghdr header;
		struct ifinfomsg link;
		struct rtattr info, kind;
		char name[8];
	} request = {
	    .header = {.nlmsg_len = sizeof(request),
		       .nlmsg_type = RTM_NEWLINK,
		       .nlmsg_flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL},
	    .info = {.rta_len = 2 * sizeof(struct rtattr) + 8, .rta_type = IFLA_LINKINFO},
	    .kind = {.rta_len = sizeof(struct rtattr) + 5, .rta_type = IFLA_INFO_KIND},
	    .name = "veth",
	};
	struct iovec part = {&request, sizeof(request)};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};

	syscall(SYS_sendmsg, netlink, &message, 0);
}

static void call(struct task *task)
{
	struct timespec moment = {0, 1000000};
	struct ifreq request = {.ifr_name = "lo"};
	struct stat status;
	int *word = &never;

	if (!strcmp(task->call, "futex"))
		syscall(SYS_futex, word, FUTEX_WAIT, 0, &moment, 0, 0);
	else if (!strcmp(task->call, "newfstatat"))
		syscall(SYS_newfstatat, AT_FDCWD, deep_path, &status, 0);
	else if (!strcmp(task->call, "sendmsg"))
		task->number % 2 ? send_new_link() : send_to_loopback();
	else if (!strcmp(task->call, "ioctl"))
		syscall(SYS_ioctl, udp, SIOCGIFFLAGS, &request);
	else if (!strcmp(task->call, "poll"))
		syscall(SYS_poll, polled, POLLED, 1);
	else if (!strcmp(task->call, "mmap"))
		syscall(SYS_mmap, area + task->number * PIECE + 4096, 5 * 4096, PROT_READ,
			MAP_PRIVATE | MAP_FIXED, file, 0);
	else if (!strcmp(task->call, "ia32:192")) { /* mmap2 */
		long number = 192;
		__asm__ volatile("push %%rbp; xor %%ebp, %%ebp; int $0x80; pop %%rbp"
				 : "+a"(number)
				 : "b"(low_area + task->number * PIECE + 4096), "c"(5 * 4096),
				   "d"(PROT_READ), "S"(MAP_PRIVATE | MAP_FIXED), "D"(file)
				 : "memory", "r8", "r9", "r10", "r11");
	}
}

static void *thread(void *argument)
{
	struct task *task = argument;

	set(&task->tid, gettid());
	wait_for(&task->go);
	call(task);
	set(&task->done, 1);
	wait_for(&never);
	return 0;
}

static void start(struct task *task)
{
	if (!strcmp(task->call, "execve")) {
		task->tid = fork();
		if (!task->tid) {
			char *arguments[] = {"parked", 0};
			char byte;
			syscall(SYS_read, start_pipe[0], &byte, 1);
			syscall(SYS_execve, parked, arguments, 0);
			_exit(1);
		}
		return;
	}
	pthread_t id;
	pthread_attr_t attributes;
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, 65536);
	if (pthread_create(&id, &attributes, thread, task)) {
		perror("pthread_create");
		exit(1);
	}
	wait_for(&task->tid);
}

/* Many small mappings: mapping over several of them goes deep. */
static char *checkered(int pieces, int flags)
{
	char *memory = mmap(0, pieces * PIECE + 4096, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);

	for (long at = 0; at < pieces * PIECE; at += 2 * 4096)
		mprotect(memory + at, 4096, PROT_NONE);
	return memory;
}

static void prepare(const char *folder)
{
	struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP};
	int ends[2];

	unshare(CLONE_NEWNET);
	udp = socket(AF_INET, SOCK_DGRAM, 0);
	ioctl(udp, SIOCSIFFLAGS, &request);
	netlink = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
	file = open("/proc/self/exe", O_RDONLY);
	if (pipe(ends) || pipe(start_pipe))
		exit(1);
	for (int i = 0; i < POLLED; i++)
		polled[i] = (struct pollfd){.fd = ends[0], .events = POLLIN};
	strcpy(deep_path, folder);
	for (int i = 0; i < 300; i++) {
		strcat(deep_path, "/d");
		mkdir(deep_path, 0700);
	}
}

int main(int count, char **arguments)
{
	struct task *tasks = calloc(100000, sizeof(*tasks));
	int all = 0;
	char line[16];

	prepare(arguments[1]);
	parked = arguments[2];
	for (int i = 3; i < count; i++) {
		char *equals = strchr(arguments[i], '=');
		int wanted = atoi(equals + 1);
		*equals = 0;
		if (!strcmp(arguments[i], "mmap"))
			area = checkered(wanted, 0);
		if (!strcmp(arguments[i], "ia32:192"))
			low_area = checkered(wanted, MAP_32BIT);
		for (int number = 0; number < wanted; number++) {
			struct task *task = &tasks[all++];
			task->call = arguments[i];
			task->number = number;
			start(task);
		}
	}
	for (int i = 0; i < all; i++)
		printf("%d %s\n", tasks[i].tid, tasks[i].call);
	printf("ready\n");
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin))
		return 1;
	for (int i = 0; i < all; i++) { /* in turn, so that they do not contend */
		if (strcmp(tasks[i].call, "execve")) {
			set(&tasks[i].go, 1);
			wait_for(&tasks[i].done);
		} else if (write(start_pipe[1], "", 1) != 1)
			return 1;
	}
	usleep(300000); /* let the last ones fall asleep, and the children exec */
	printf("done\n");
	fflush(stdout);
	if (fgets(line, sizeof(line), stdin))
		return 1;
	for (int i = 0; i < all; i++)
		if (!strcmp(tasks[i].call, "execve")) {
			kill(tasks[i].tid, 9);
			waitpid(tasks[i].tid, 0, 0);
		}
	_exit(0);
}
#endif
