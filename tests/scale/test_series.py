# SPDX-License-Identifier: GPL-2.0-or-later
"""How many series a host costs: at most 200 by default, counted on the real page and by worst case.

docs/scale.md reckons with these figures.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

from dynstack_probe.model.frame import Coverage
from dynstack_probe.model.lifecycle import GROWTH_AGES, Lifecycle
from dynstack_probe.model.sample import Living, Sample
from dynstack_probe.model.stacks import Kind
from dynstack_probe.serve.collector import HostCollector, ScanCounter
from dynstack_probe.serve.config import Config
from tests import ROOT
from tests.conftest import why_no_bpf
from tests.factory import COSTS, a_host
from tests.live.test_serve import serving
from tests.scale.document import yaml_blocks
from tests.scale.hosts import series_of, with_cgroups

LIMIT = 200
CGROUPS = 1000
# include/linux/vm_event_item.h, kernel 6.12: as many as THREAD_SIZE has powers of two
KSTACK_COUNTERS = ("1k", "2k", "4k", "8k", "16k", "32k", "rest")


def busiest_sample(thread_size_bytes: int) -> Sample:
    """A host of which everything is known that a kernel can tell, with 1000 cgroups."""
    pages = thread_size_bytes // 4096
    shapes = {(mark, 1): 5 for mark in range(1, pages + 1)}
    counters = {f"kstack_{name}": 1 for name in KSTACK_COUNTERS}
    return Sample(
        host=a_host(thread_size_bytes=thread_size_bytes),
        living=Living(dict.fromkeys(Kind, shapes), (0,) * pages, (0,) * len(GROWTH_AGES), 1),
        lifecycle=Lifecycle(
            created=7,
            reused=3,
            exited=shapes,
            skipped=(0,) * pages,
            growth_by_age=(1,) * len(GROWTH_AGES),
            lost={"exit_unread": 0, "exit_pages_hidden": 0, "inheritance_forgotten": 0},
            runs=9,
            run_seconds=0.5,
        ),
        coverage=Coverage(99, 0, 99, 99 * 16, False),
        cgroups={number: (number,) * pages for number in range(1, CGROUPS + 1)},
        scan_seconds=0.001,
        taken_at=1.0,
        kernel_counters={"nr_dynamic_stacks_faults": 156, **counters},
        bpf_memory_bytes=4096,
    )


def series_with(config: Config, thread_size_bytes: int = 16384) -> int:
    """Series of that host's page, the process's own among them."""
    registry = CollectorRegistry()
    newest = ScanCounter().add(busiest_sample(thread_size_bytes))
    registry.register(
        HostCollector(
            lambda: newest,
            config.chosen_policies,
            lambda: config.top_cgroups,
            lambda: {number: f"/{number}.slice" for number in newest.sample.cgroups},
            lambda: COSTS,
        )
    )
    ProcessCollector(registry=registry)
    return len(series_of(generate_latest(registry).decode()))


@pytest.mark.parametrize("thread_size_bytes", [16384, 32768])  # KASAN doubles it
def test_the_busiest_host_stays_below_the_limit(thread_size_bytes: int) -> None:
    assert series_with(Config(), thread_size_bytes) <= LIMIT


def test_what_each_setting_costs() -> None:
    """As docs/scale.md has it."""
    one = series_with(Config())
    assert series_with(Config(top_cgroups=21)) - one == 2
    assert one - series_with(Config(top_cgroups=0)) == 40  # `other` stays
    for policy, more in (("static-8k", 25), ("grow-8k", 28)):
        assert series_with(Config(policies=("rfc-v1", policy))) - one == more


def test_the_document_names_the_worst_case() -> None:
    text = (ROOT / "docs" / "scale.md").read_text()
    found = re.search(r"At most (\d+) series a host", text)
    assert found
    assert int(found[1]) == series_with(Config())


@pytest.mark.skipif(shutil.which("promtool") is None, reason="prometheus is not installed")
def test_the_configurations_of_the_document_are_good(tmp_path: Path) -> None:
    blocks = yaml_blocks()
    assert len(blocks) >= 3
    for number, block in enumerate(blocks):
        path = tmp_path / f"{number}.yml"
        path.write_text(yaml.safe_dump(block))
        result = subprocess.run(
            ["promtool", "check", "config", "--syntax-only", str(path)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert result.returncode == 0, (block, result.stderr)


def test_federation_takes_what_the_rules_record() -> None:
    """All that is recorded for more than a single host, and nothing else."""
    (federation,) = (block for block in yaml_blocks() if "/federate" in str(block))
    (match,) = federation["scrape_configs"][0]["params"]["match[]"]
    pattern = re.search(r'__name__=~"(.*)"', match)
    assert pattern
    rules = "".join(path.read_text() for path in (ROOT / "grafana" / "rules").glob("*.yml"))
    recorded = re.findall(r"- record: (\S+)", rules)
    assert recorded
    for name in recorded:
        taken = re.fullmatch(pattern[1], name) is not None
        assert taken == name.startswith("job"), name


@pytest.mark.live
@pytest.mark.skipif(bool(why_no_bpf()), reason=f"needs BPF: {why_no_bpf()}")
def test_the_real_page() -> None:
    with serving() as daemon:
        page = daemon.get("/metrics")
    count = len(series_of(page))
    assert 50 < count <= series_with(Config())
    # what the simulation makes of it: the top 20 and `other`
    assert count < len(series_of(with_cgroups(page))) <= LIMIT
