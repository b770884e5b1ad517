# SPDX-License-Identifier: GPL-2.0-or-later
"""Each line that README, the documents and `--help` tell a reader to type, typed.

At a checkout; README's also at the wheel, as pipx installs it, and at the Debian package.
tests/distributions does the same on fresh machines.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dynstack_probe.cli import app
from tests import ROOT
from tests.conftest import why_no_bpf
from tests.documents.blocks import DOCUMENTS
from tests.documents.typed import INSTANCE, Desk, Line, lines
from tests.live.machine import free_port
from tests.prometheus_server import prometheus

# What is typed but not at this program, and what runs it; a target of make is itself a run.
ELSEWHERE = {
    r"git clone <this repository> && cd dynstack-probe( && make estimate)?": "distributions",
    r"make check": "distributions",
    r"make (truth|bench|soak|scale|results( LOADS=\S+)?)": None,
    r"make \.venv/\.installed": "distributions",
    r"make deb( && sudo apt install \./dist/dynstack-probe_\*\.deb)?": "distributions",
    r"sudo apt install (\./dist/dynstack-probe_\*_all\.deb|python3-bpfcc)": "distributions",
    r"(?s)systemctl .*": "vm/test_systemd.py",
    r"\.venv/bin/python tests/bench/(exits|cgroups)_bench\.py docs/performance\.md": None,
    r"\.venv/bin/python -m tests\.results\.document": "results/test_document.py",
    r"zcat host\.dsp \| jq .*": "documents/test_typed.py",
    r"rpmbuild -bb .*": "packaging/test_rpm.py",
    r"pip wheel --no-deps --wheel-dir dist \.": "packaging/test_wheel.py",
    r"pipx install dist/dynstack_probe-\*\.whl": "distributions",
    r"kubectl apply -k packaging/kubernetes": "packaging/test_kubernetes.py",
    # Said there: what has been seen by hand and what could not be.
    r"cd grafana && docker compose up": None,
    r"(?s)(docker (build|run)|podman (build|import)|mmdebstrap|jq) .*": None,
}
OURS = [line for line in lines() if line.is_ours]
# README has each command; what else is typed differs in options, which an installation does not.
TRIED = [
    (name, line)
    for name in ("checkout", "wheel", "deb")
    for line in OURS
    if name == "checkout" or line.where.startswith("README")
]
needs_bpf = pytest.mark.skipif(why_no_bpf() is not None, reason=f"needs BPF: {why_no_bpf()}")


def test_all_is_typed_somewhere() -> None:
    for line in lines():
        if not line.is_ours:
            assert any(re.fullmatch(pattern, line.text) for pattern in ELSEWHERE), line.where
    for where in filter(None, ELSEWHERE.values()):
        assert (ROOT / "tests" / where).exists()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_options_and_targets_in_prose_exist(path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    commands = {command.name: command for command in app.registered_commands}
    for code in re.findall(r"`([^`\n]+)`", path.read_text()):
        if target := re.match(r"make ([a-z][a-z-]*)", code):
            assert re.search(rf"(?m)^{target[1]}:", makefile), code
        words = code.replace("sudo ", "").replace("dynstack-probe ", "").split()
        if words and words[0] in commands and len(words) > 1:
            options = {
                name
                for default in (commands[words[0]].callback.__defaults__ or ())  # type: ignore[union-attr]
                for name in getattr(default, "param_decls", None) or ()
            }
            for word in words[1:]:
                if word.startswith("-"):
                    assert word.split("=")[0] in {*options, "--help"}, code


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus that knows one host, under the name that the documents give it."""
    folder = tmp_path_factory.mktemp("prometheus")
    port = free_port()
    (folder / "config.toml").write_text('policies = ["rfc-v1", "static-8k"]\n')
    daemon = [
        *(sys.executable, "-m", "dynstack_probe", "serve"),
        *("--listen", f"127.0.0.1:{port}", "--config", str(folder / "config.toml")),
    ]
    target = {"targets": [f"127.0.0.1:{port}"], "labels": {"instance": INSTANCE}}
    config = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{"job_name": "dynstack", "static_configs": [target]}],
    }
    with subprocess.Popen(daemon) as serving, contextlib.ExitStack() as stack:
        stack.callback(serving.terminate)
        there = stack.enter_context(prometheus(folder, config))
        wait_for_samples(there.url)
        yield there.url


def wait_for_samples(url: str) -> None:
    """Until an hour's range has any: its steps are whole minutes, and the server is young."""
    query = urllib.parse.quote("count_over_time(dynstack_stacks_read[1h:1m]) >= 1")
    while True:
        with urllib.request.urlopen(f"{url}/api/v1/query?query={query}", timeout=60) as answer:
            if json.load(answer)["data"]["result"]:
                return
        time.sleep(1)


def checkout() -> str:
    return f"{sys.executable} -m dynstack_probe"


def wheel(folder: Path) -> str:
    """In an environment of its own, with what it depends on."""
    make = f"{sys.executable} -m pip wheel --quiet --no-deps -w {folder} {ROOT}".split()
    subprocess.run(make, check=True)
    subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True)
    (built,) = folder.glob("*.whl")
    install = f"{folder}/env/bin/pip install --quiet {built}".split()
    subprocess.run(install, check=True)
    return str(folder / "env/bin/dynstack-probe")


def deb(folder: Path) -> str:
    """Unpacked; its Depends are this machine's."""
    result = subprocess.run(
        [ROOT / "packaging/build-deb.sh", folder], capture_output=True, text=True, check=True
    )
    root = folder / "root"
    subprocess.run(["dpkg-deb", "--extract", result.stdout.strip(), root], check=True)
    modules = root / "usr/lib/python3/dist-packages"
    return f"env PYTHONPATH={modules} /usr/bin/python3 {root}/usr/bin/dynstack-probe"


@pytest.fixture(scope="module")
def installations(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The command of an installation by name, each made once."""
    makers = {"checkout": lambda _: checkout(), "wheel": wheel, "deb": deb}
    return functools.cache(lambda name: makers[name](tmp_path_factory.mktemp(name)))


@pytest.fixture
def desk(
    request: pytest.FixtureRequest,
    installations: Callable[[str], str],
    server: str,
    tmp_path: Path,
) -> Desk:
    return Desk(tmp_path, installations(request.param), server)


@pytest.mark.live
@needs_bpf
@pytest.mark.parametrize(("desk", "line"), TRIED, ids=str, indirect=["desk"])
def test_it_works(desk: Desk, line: Line) -> None:
    desk.try_out(line)


def test_jq_reads_a_capture(tmp_path: Path) -> None:
    (line,) = (line for line in lines() if "jq -s" in line.text)
    desk = Desk(tmp_path, "false", "")
    desk.lay(line.text)
    result = desk.run(line.text)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 0


@pytest.mark.parametrize("text", ["$P estimate --no-such-option", "$P cost nowhere.txt"])
def test_a_line_that_fails_is_noticed(tmp_path: Path, text: str) -> None:
    desk = Desk(tmp_path, checkout(), "")
    with pytest.raises(AssertionError):
        desk.try_out(Line("here", text))
