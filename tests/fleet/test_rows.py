# SPDX-License-Identifier: GPL-2.0-or-later
"""From a server's answer to rows, and from rows to what is printed."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys

import pytest

from dynstack_probe.errors import ProbeError
from dynstack_probe.fleet import table as report
from dynstack_probe.fleet.access import parse_access
from dynstack_probe.fleet.ask import METRICS, ask
from dynstack_probe.fleet.client import Server
from dynstack_probe.fleet.model import By, Costs, Fleet, Health, Row, ordered, total
from dynstack_probe.model.savings import Savings
from tests import ROOT
from tests.fleet.stub import Reply, Request, answering, vector

HEALTH = (
    ({"dynstack_figure": "asked"}, "5"),
    ({"dynstack_figure": "answered"}, "4"),
    ({"dynstack_figure": "median_age"}, "7.4"),
    ({"dynstack_figure": "oldest_age"}, "90000"),
    ({"dynstack_figure": "stale"}, "1"),
    ({"dynstack_figure": "stale_host", "instance": "old\x1b[2J", "job": "d"}, "90000"),
    ({"dynstack_figure": "down_host", "instance": "down:1", "job": "d"}, "0"),
)
EVIL = "=cmd|' /C calc'!A0\x1b]0;owned\x07\u202e[red]x[/red]" + "m" * 300
FIGURES = {"cpus": 4, "stacks": 100, "base": 100 << 14, "dynamic": 110 << 12, "reserve": 12 << 12,
           "memory": 8 << 30}  # fmt: skip

Labelled = tuple[dict[str, str], str]


def host_series(scanned_at: float = 990.0, **labels: str) -> list[Labelled]:
    """A whole host, as the server keeps it."""
    rows = [
        ({"__name__": metric, **labels}, str(FIGURES[figure])) for figure, metric in METRICS.items()
    ]
    for metric_labels, _ in rows:
        if metric_labels["__name__"].startswith("dynstack_policy"):
            metric_labels["policy"] = "rfc-v1"
    info = {"cpu_model": EVIL, "kernel_release": "6.1", "thread_size_bytes": "16384"}
    return [
        *rows,
        ({"__name__": "dynstack_scan_timestamp_seconds", **labels}, str(scanned_at)),
        ({"__name__": "dynstack_host_info", **labels, **info}, "1"),
    ]


def asked(by: By, *series: Labelled, health: tuple[Labelled, ...] = HEALTH) -> Fleet:
    """The fleet that a server with these series makes."""

    def answer(request: Request) -> Reply:
        if '"answered"' in request.query:
            return vector(*health, warnings=["store \x1b down"])
        return vector(*series)

    with answering(answer) as stub:
        return ask(Server(parse_access(stub.url), 5.0), by, "rfc-v1")


def test_by_host() -> None:
    fleet = asked(By.host, *host_series(instance="a", job="d"), *host_series(instance="b"))
    assert [row.name for row in fleet.rows] == ["a", "b"]
    row = fleet.rows[0]
    assert (row.hosts, row.cpus, row.stacks, row.base_kib) == (1, 4, 100, 1600)
    assert (row.dynamic_kib, row.reserve_kib, row.mem_total_kib) == (440, 48, 8 << 20)
    assert (row.cpu_model, row.kernel_release) == (EVIL, "6.1")
    assert row.sample_age_seconds == 10
    assert fleet.left_out == 2
    assert fleet.warnings == ["store \\x1b down"]


def test_hosts_of_one_name_stay_apart() -> None:
    twins = [
        *host_series(instance="a", job="d", cluster="x"),
        *host_series(instance="a", job="d", cluster="y"),
    ]
    fleet = asked(By.host, *twins)
    assert [row.name for row in fleet.rows] == ["a {cluster=x,job=d}", "a {cluster=y,job=d}"]
    assert total(fleet.rows).stacks == 200


def test_a_host_of_nonsense_is_left_out_and_named() -> None:
    for value in ("NaN", "-Inf", "+Inf", "-1", "1e30"):
        bad = host_series(instance="bad", job="d")
        bad[0] = (bad[0][0], value)
        fleet = asked(By.host, *host_series(instance="good"), *bad)
        assert [row.name for row in fleet.rows] == ["good"]
        assert fleet.left_out_names == ["bad"]
        assert "hosts without valid figures for rfc-v1: bad" in report.as_table(fleet)


def test_a_clock_ahead_makes_no_negative_age() -> None:
    fleet = asked(By.host, *host_series(instance="a", scanned_at=5000))
    assert fleet.rows[0].sample_age_seconds == 0
    fleet = asked(By.host, *host_series(instance="a", scanned_at=float("nan")))
    assert fleet.rows[0].sample_age_seconds is None


def grouped(label: str, name: str, hosts: int = 2, **changes: int) -> list[Labelled]:
    figures = {metric: FIGURES[figure] for figure, metric in METRICS.items()}
    figures |= {METRICS[figure]: value for figure, value in changes.items()}
    figures |= {"dynstack_kernel_stacks": 101, "hosts": hosts}
    return [({"dynstack_figure": f, label: name}, str(value)) for f, value in figures.items()]


def counts(hosts: int, **changes: int) -> list[Labelled]:
    """How many hosts have each metric."""
    figures = dict.fromkeys([*METRICS.values(), "dynstack_kernel_stacks"], hosts) | changes
    return [
        ({"__name__": metric, "dynstack_figure": f"count {metric}"}, str(count))
        for metric, count in figures.items()
    ]


def test_by_cpu() -> None:
    groups = [
        *grouped("cpu_model", "Small", base=50 << 14, hosts=1),
        *grouped("cpu_model", "Big"),
    ]
    fleet = asked(By.cpu, *groups, *counts(3))
    assert [(row.name, row.hosts, row.base_kib) for row in fleet.rows] == [
        ("Big", 2, 1600),
        ("Small", 1, 800),
    ]
    assert total(fleet.rows).kernel_stacks == 202
    assert fleet.left_out == 1
    not_all = asked(By.cpu, *groups, *counts(3, dynstack_kernel_stacks=2))
    assert total(not_all.rows).kernel_stacks is None


def test_a_sum_that_lacks_a_host_is_no_sum() -> None:
    series = [*grouped("cpu_model", "Big"), *counts(2, dynstack_host_cpus=1)]
    with pytest.raises(ProbeError, match="missing or invalid: --by host"):
        asked(By.cpu, *series)


def test_figures_of_rows() -> None:
    row = Row(
        **vars(Savings(100, 1600, 440, 48, 8 << 20)), name="x", hosts=1, cpus=4, kernel_stacks=100
    )
    assert row.saving_ratio == 1 - 440 / 1600
    assert row.saving_with_reserve_ratio == pytest.approx((1160 - 48) / 1600)
    assert row.saving_of_ram_ratio == 1160 / (8 << 20)
    nothing = Row(name="y", hosts=0, cpus=0, kernel_stacks=0)
    assert nothing.saving_ratio == nothing.saving_of_ram_ratio == 0
    assert ordered([nothing, row])[0] is row


def evil_fleet() -> Fleet:
    return asked(
        By.cpu, *grouped("cpu_model", EVIL), *grouped("cpu_model", "x", base=110 << 12), *counts(4)
    )


def test_table_is_narrow_and_harmless() -> None:
    text = report.as_table(evil_fleet())
    assert max(map(len, text.splitlines())) <= 80
    assert all(line.isprintable() for line in text.splitlines())
    assert "[red]" not in text or "\\x1b" in text
    assert "5 asked, 4 answered; down: down:1" in text
    told = " ".join(text.split())
    assert "7 s old (median), the oldest 25 h; 1 of them stale, over 5 min: old\\x1b[2J" in told
    assert "Warning store \\x1b down" in told
    assert "Reserve 96 KiB for 8 CPUs (rfc-v1)" in told


def test_costs_of_a_group_are_those_of_the_hosts_that_tell() -> None:
    """2 of 3 hosts tell: (3 - 1) ms of CPU a second of 40 CPUs; 50 kernel page faults a second."""
    figures = {"hosts": "2", "cost_cpus": "40", "faults_cpu": "0.003", "forks_cpu": "0.001",
               "faults": "0", "fault_cpus": "40", "kernel_page_faults": "50",
               "page_fault_cpus": "20", "headroom": "4194304", "deepest": "9000",
               "too_deep": "7"}  # fmt: skip

    def answer(request: Request) -> Reply:
        if '"answered"' in request.query:
            return vector(*HEALTH)
        if "dynstack_policy_fault_cpu_seconds_total" in request.query:
            label = {"cpu_model": "CPU"}
            return vector(
                *(({**label, "dynstack_figure": name}, value) for name, value in figures.items())
            )
        return vector(*grouped("cpu_model", "CPU", hosts=3), *counts(3))

    with answering(answer) as stub:
        fleet = ask(Server(parse_access(stub.url), 5.0), By.cpu, "rfc-v1")
    (row,) = json.loads(report.as_json(fleet))["groups"]
    assert row["cost_hosts"] == 2
    assert row["net_cpu_ratio"] == pytest.approx(0.002 / 40)
    assert row["fork_saving_cpu_ratio"] == pytest.approx(0.001 / 40)
    assert row["stack_fault_break_even_ns"] is None
    assert row["kernel_page_fault_break_even_ns"] == pytest.approx(0.001 * 20 * 1e9 / 50)
    assert (row["least_headroom_kib"], row["deepest_bytes"], row["too_deep_tasks"]) == (
        4096, 9000, 7,
    )  # fmt: skip
    text = report.as_table(fleet)
    costs = [line.split() for line in text.splitlines() if line.startswith("CPU ")][-1]
    assert costs == ["CPU", "0.0050%", "-", "400", "us", "4096", "9000", "7"]
    assert "of 2 hosts; 1 unknown" in " ".join(text.split())


def test_a_server_that_knows_no_costs() -> None:
    fleet = asked(By.host, *host_series(instance="a"))
    assert fleet.rows[0].costs == Costs()
    text = report.as_table(fleet)
    assert "of 0 hosts; 1 unknown" in " ".join(text.split())
    (row,) = csv.DictReader(io.StringIO(report.as_csv(fleet)))
    assert (row["cost_hosts"], row["net_cpu_ratio"], row["least_headroom_kib"]) == ("0", "", "")


def test_many_rows_end_in_their_sum() -> None:
    series = [line for n in range(50) for line in host_series(instance=f"host-{n:02}")]
    fleet = asked(By.host, *series)
    text = report.as_table(fleet)
    assert "... 30 more" in text
    assert "the first 20; --format csv has all 50" in text
    total_line = next(line for line in text.splitlines() if line.startswith("Total"))
    assert total_line.split()[1:] == ["200", "5000", "80000", "22000", "72.50%"]
    assert len(list(csv.DictReader(io.StringIO(report.as_csv(fleet))))) == 50


def test_names_are_cut_where_they_are_alike() -> None:
    names = ("Intel Xeon Platinum 8480+ with much to say", "Intel Xeon Platinum 8280L with much to")
    fleet = asked(
        By.cpu,
        *grouped("cpu_model", names[0]),
        *grouped("cpu_model", names[1]),
        *counts(4),
    )
    lines = report.as_table(fleet).splitlines()[2:4]
    assert lines[0].split()[:3] != lines[1].split()[:3]
    assert all("…" in line for line in lines)


def test_a_million_hosts_fit() -> None:
    savings = Savings(3 * 10**9, 48 * 10**9, 13 * 10**9, 768 * 10**6, 10**15)
    row = Row(
        **vars(savings), name="AMD EPYC 7B12", hosts=10**6, cpus=64 * 10**6, kernel_stacks=3 * 10**9
    )
    health = Health(None, 10**6, [], 0, [], None, None)
    fleet = Fleet("http://x", None, "rfc-v1", By.cpu, [row], health, 0, [], [])
    text = report.as_table(fleet)
    assert max(map(len, text.splitlines())) <= 80
    assert "48000000000" in text
    assert "72.92%" in text
    assert "which are down is unknown" in text
    assert "of unknown age" in text


def test_csv_is_no_formula() -> None:
    (row, _) = csv.DictReader(io.StringIO(report.as_csv(evil_fleet())))
    assert row["name"].startswith("'=cmd")
    assert "\x1b" not in row["name"]
    assert row["base_kib"] == "1600"


def test_json() -> None:
    document = json.loads(report.as_json(evil_fleet()))
    assert document["schema_version"] == 1
    assert document["hosts"]["asked"] == 5
    assert document["hosts"]["stale_names"] == ["old\\x1b[2J"]
    assert document["sample_age_seconds"] == {"median": 7.4, "oldest": 90000}
    assert document["total"]["stacks"] == 200
    assert document["groups"][0]["saving_ratio"] == 1 - 440 / 1600
    assert "\x1b" not in report.as_json(evil_fleet())


def test_selectors_can_not_be_escaped_from() -> None:
    queries = []

    def answer(request: Request) -> Reply:
        queries.append(request.query)
        return vector(*HEALTH) if '"answered"' in request.query else vector()

    with answering(answer) as stub:
        server = Server(parse_access(stub.url), 5.0)
        for by in By:
            try:
                ask(server, by, 'a"}\\\n', '"} or x{y="')
            except Exception as error:
                assert "exports policy" in str(error)  # noqa: PT017
    assert all('job="\\"} or x{y=\\""' in query for query in queries if "job" in query)
    assert any('policy="a\\"}\\\\\\n"' in query for query in queries)


def test_reads_nothing_of_this_machine() -> None:
    """It must start anywhere, fast: no kernel room, no psutil, no prometheus_client."""
    code = (
        "import sys; from dynstack_probe import cli; from dynstack_probe.fleet import ask;"
        "from dynstack_probe.fleet import table;"
        "print([m for m in sys.modules if m in ('psutil', 'prometheus_client')"
        " or m.startswith(('dynstack_probe.kernel', 'dynstack_probe.loader'))])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"
