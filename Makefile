# SPDX-License-Identifier: GPL-2.0-or-later
# Each target sets itself up first: missing system packages, then .venv.

PYTHON ?= /usr/bin/python3
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

# The child that loads BPF needs Debian's bcc, under the system's Python.
SYSTEM_PACKAGES := python3 python3-venv python3-bpfcc
# For tests: bpftool finds leaked BPF objects; the python3-* are the oldest versions that
# we support.
BPFTOOL := $(shell . /etc/os-release 2>/dev/null; \
	[ "$$ID" = ubuntu ] && echo linux-tools-common linux-tools-generic || echo bpftool)
TEST_PACKAGES := $(BPFTOOL) python3-typer python3-prometheus-client python3-rich \
	lintian man-db rpm systemd prometheus jsonnet stress-ng openssl qemu-system-x86 debian-archive-keyring \
	mmdebstrap e2fsprogs btrfs-progs gcc libc6-dev tmux chromium python3-pygal fonts-dejavu-core

# packaging/debian/control's Build-Depends
DEB_PACKAGES := python3 python3-all python3-typer python3-hatchling debhelper dh-python \
	pybuild-plugin-pyproject dpkg-dev

# The compiled loops, and the tools that `serve` is compared with.
BENCH_PACKAGES := make gcc libc6-dev bpfcc-tools bpftrace prometheus-node-exporter

# To build a kernel with CONFIG_DEBUG_STACK_USAGE.
TRUTH_PACKAGES := make gcc libc6-dev flex bison bc pahole libelf-dev libssl-dev xz-utils kmod \
	qemu-system-x86 debian-archive-keyring util-linux

.PHONY: documents site estimate help check test vm-test distributions truth lint format bench soak scale results dashboards deb clean

estimate: can-become-root .venv/.installed  ## what dynamic kernel stacks would save on this host
	@$(SUDO) .venv/bin/dynstack-probe estimate

# Checked before anything is installed.
.PHONY: can-become-root
can-become-root:
	@[ -z "$(SUDO)" ] || command -v $(SUDO) >/dev/null || { \
		echo "this needs root, and sudo is not installed: run make $(MAKECMDGOALS) as root"; exit 1; }

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Fast: no root, no BPF, no VM, no browser, no network.
check: .venv/.installed-dev  ## lint and unit tests, under a minute
	@.venv/bin/ruff check --quiet .
	@HYPOTHESIS_PROFILE=quick .venv/bin/python -m pytest -m "not (live or vm or browser or prometheus or slow)"

test: .venv/.installed-dev .venv/.test-packages  ## all tests, as root: BPF, Prometheus, Chromium
	@$(SUDO) .venv/bin/python -m pytest

# Debian's kernels in QEMU, and the package under a real systemd there; downloaded into a
# cache, never installed. Takes hours in emulation; RESUME=1 resumes a run of the last 24 h.
vm-test: .venv/.installed-dev .venv/.test-packages  ## Debian's kernels in QEMU, hours
	@$(SUDO) env DYNSTACK_VM=all DYNSTACK_VM_RESUME=$(RESUME) .venv/bin/python -m pytest tests/vm

# README top to bottom in fresh chroots, each from its distribution's archive; DISTRIBUTIONS=debian-13 for one.
DISTRIBUTIONS ?= all
distributions: .venv/.installed-dev .venv/.test-packages  ## Debian 12, 13 and Ubuntu, from scratch
	@$(SUDO) env DYNSTACK_DISTRIBUTIONS=$(DISTRIBUTIONS) \
		.venv/bin/python -m pytest tests/distributions

# Against the kernel's own figures, sysrq-t and kstack_*, of a kernel built with them. Not in CI.
truth: can-become-root .venv/.installed-dev .venv/.truth-packages  ## check against the kernel's own figures: docs/accuracy.md
	@$(SUDO) .venv/bin/python -m tests.truth

lint: .venv/.installed-dev  ## ruff, mypy, clang-format
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/clang-format --dry-run -Werror $(shell find probes tests -name '*.[ch]')

format: .venv/.installed-dev  ## format the source
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .
	.venv/bin/clang-format -i $(shell find probes tests -name '*.[ch]')

# About 20 minutes on an otherwise idle machine.
bench: .venv/.installed-dev .venv/.bench-packages  ## benchmarks: docs/performance.md, 20 minutes
	@$(SUDO) .venv/bin/python tests/bench/estimate_bench.py docs/performance.md
	@$(SUDO) .venv/bin/python tests/bench/serve_bench.py docs/performance.md
	@$(SUDO) .venv/bin/python tests/bench/daemon_bench.py docs/performance.md
	@$(SUDO) .venv/bin/python tests/bench/cgroups_bench.py docs/performance.md
	@$(SUDO) .venv/bin/python tests/bench/exits_bench.py docs/performance.md
	@$(SUDO) .venv/bin/python tests/bench/million.py docs/performance.md
	@$(SUDO) .venv/bin/python tests/bench/faults_bench.py docs/performance.md

# Half an hour of fork storms.
soak: .venv/.installed-dev .venv/.test-packages  ## half an hour of fork storms
	@$(SUDO) .venv/bin/python tests/bench/soak.py docs/performance.md --minutes 30

# Real workloads, each recorded: docs/results.md. 30 minutes on 2 CPUs.
# LOADS=a,b runs only those; .venv/bin/python tests/results/run.py --list lists them.
results: can-become-root .venv/.installed-dev  ## real workloads: docs/results.md, 30 minutes
	@$(call need,linux-perf bpftrace $$(.venv/bin/python tests/results/run.py --packages --loads "$(LOADS)"))
	@$(SUDO) .venv/bin/python tests/results/run.py --loads "$(LOADS)"

# Thousands of simulated hosts under a real Prometheus: docs/scale.md.
scale: .venv/.installed-dev .venv/.test-packages  ## thousands of simulated hosts: docs/scale.md
	@$(SUDO) .venv/bin/python tests/scale/measure.py docs/scale.md

# grafana/dashboards/*.json from grafana/generate
dashboards: .venv/.installed-dev  ## grafana/dashboards from grafana/generate
	.venv/bin/python -m grafana.generate

documents: .venv/.installed-dev  ## docs/metrics.md and docs/policies.md from the code
	.venv/bin/python -m tests.documents.reference

# Not --quiet, which would let dead links pass.
site: .venv/.installed-dev  ## the documentation as HTML, in dist/site
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build
	@echo "dist/site/index.html (for its search: .venv/bin/mkdocs serve)"

deb:  ## the Debian package and its source package, in dist/
	@$(call need,$(DEB_PACKAGES))
	@packaging/build-deb.sh

clean:  ## remove what make created
	rm -rf .venv dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/.installed: pyproject.toml
	@$(call need,$(SYSTEM_PACKAGES))
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is older than Python 3.11: make PYTHON=/path/to/a/newer/one"; exit 1; }
	@echo "Setting up .venv ..."
	@$(PYTHON) -m venv .venv
	@.venv/bin/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

.venv/.installed-dev: .venv/.installed
	@echo "Installing development tools ..."
	@.venv/bin/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

.venv/.test-packages: .venv/.installed Makefile
	@$(call need,$(TEST_PACKAGES) $(DEB_PACKAGES))
	@touch $@

.venv/.bench-packages: .venv/.installed Makefile
	@$(call need,$(BENCH_PACKAGES))
	@touch $@

.venv/.truth-packages: .venv/.installed Makefile
	@$(call need,$(TRUTH_PACKAGES))
	@touch $@

# Installs those of the Debian packages that are missing; else does not call apt.
define need
	missing=$$(for p in $(1); do dpkg -s $$p >/dev/null 2>&1 || echo $$p; done); \
	if [ -n "$$missing" ]; then \
		command -v apt-get >/dev/null || { \
			echo "No apt here: please install the equivalents of" $$missing; exit 1; }; \
		echo "Installing" $$missing "..."; \
		$(SUDO) apt-get update -qq && \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
			--no-install-recommends $$missing >/dev/null; \
	fi
endef
