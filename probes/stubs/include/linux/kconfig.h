/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Stands for the kernel configuration that bcc includes before everything. */
#define CONFIG_BPF_SYSCALL 1
#define CONFIG_64BIT 1
