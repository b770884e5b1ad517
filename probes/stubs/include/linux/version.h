/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The probes ask for features, never for versions: this only satisfies bcc. */
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE KERNEL_VERSION(5, 8, 0)
