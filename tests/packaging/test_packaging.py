# SPDX-License-Identifier: GPL-2.0-or-later
"""The Debian package, the unit and the manual, as far as no systemd need run."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import socket
import subprocess
import tempfile
import tomllib
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import typer.main

from dynstack_probe import __version__, cli
from dynstack_probe.serve.config import Config, read_config
from tests import ROOT
from tests.conftest import why_no_bpf
from tests.tools import needs

PACKAGING = ROOT / "packaging"
UNIT = PACKAGING / "dynstack-probe.service"
SANDBOX = Path(__file__).with_name("sandbox.py")
SYSTEM_PYTHON = "/usr/bin/python3"
MODULES = "usr/lib/python3/dist-packages"


def has_packages(python: str) -> bool:
    """Whether the system's Python has what the package depends on."""
    code = "import prometheus_client, rich, typer"
    return subprocess.run([python, "-Ic", code], capture_output=True, check=False).returncode == 0


needs_build_tools = pytest.mark.skipif(
    not (shutil.which("dh_python3") and has_packages(SYSTEM_PYTHON)),
    reason="needs debhelper and Debian's python3-typer and others: make test installs them",
)
needs_bpf = pytest.mark.skipif(why_no_bpf() is not None, reason=f"needs BPF: {why_no_bpf()}")


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run in / with PYTHONPATH and its like taken from `environment` only."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        cwd="/",
        env={**kept, **environment},
        timeout=120,
        check=False,
    )


def build(output: Path, **environment: str) -> Path:
    result = run(PACKAGING / "build-deb.sh", output, **environment)
    assert result.returncode == 0, result.stderr
    return Path(result.stdout.strip())


@dataclass(frozen=True)
class Package:
    """The built package, and a root with its content."""

    deb: Path
    root: Path

    def field(self, name: str) -> str:
        return run("dpkg-deb", "--field", self.deb, name).stdout.strip()

    def control_file(self, name: str) -> str:
        return run("dpkg-deb", "--info", self.deb, name).stdout

    def files(self) -> set[str]:
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file()}

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The packaged command under the system's Python."""
        return run(
            SYSTEM_PYTHON,
            self.root / "usr/bin/dynstack-probe",
            *arguments,
            PYTHONPATH=str(self.root / MODULES),
            PYTHONDONTWRITEBYTECODE="1",
        )


@pytest.fixture(scope="module")
def package() -> Iterator[Package]:
    # Not tmp_path: user nobody has to get in.
    with tempfile.TemporaryDirectory(prefix="dynstack-probe-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        deb = build(folder)
        subprocess.run(["dpkg-deb", "--extract", deb, folder / "root"], check=True)
        yield Package(deb, folder / "root")


def source_files(folder: str) -> set[str]:
    paths = (ROOT / folder).rglob("*")
    return {str(p.relative_to(ROOT)) for p in paths if p.is_file() and "__pycache__" not in p.parts}


@needs_build_tools
class TestContent:
    def test_name(self, package: Package) -> None:
        assert package.deb.name == f"dynstack-probe_{__version__}_all.deb"

    def test_files(self, package: Package) -> None:
        modules = {f"{MODULES}/{path}" for path in source_files("dynstack_probe")}
        probes = {f"{MODULES}/dynstack_probe/{path}" for path in source_files("probes")}
        metadata = {path for path in package.files() if ".dist-info/" in path}
        names = {Path(path).name for path in metadata}
        # Debian 13's dh_python3 says there who installed it
        assert names - {"INSTALLER"} == {"METADATA", "WHEEL", "entry_points.txt"}
        assert package.files() - metadata == {
            *modules,
            *probes,
            "etc/default/dynstack-probe",
            "etc/dynstack-probe/config.toml",
            "usr/lib/systemd/system/dynstack-probe.service",
            "usr/bin/dynstack-probe",
            "usr/share/bash-completion/completions/dynstack-probe",
            "usr/share/doc/dynstack-probe/README.md",
            "usr/share/doc/dynstack-probe/dynstack-probe.socket",
            "usr/share/doc/dynstack-probe/changelog.gz",
            "usr/share/doc/dynstack-probe/copyright",
            "usr/share/fish/vendor_completions.d/dynstack-probe.fish",
            "usr/share/man/man1/dynstack-probe.1.gz",
            "usr/share/zsh/vendor-completions/_dynstack-probe",
        }

    def test_command_is_for_the_systems_python(self, package: Package) -> None:
        command = package.root / "usr/bin/dynstack-probe"
        assert command.read_text().startswith("#!/usr/bin/python3 -I\n")
        assert command.stat().st_mode & 0o777 == 0o755

    def test_owned_by_root(self, package: Package) -> None:
        listing = run("dpkg-deb", "--contents", package.deb).stdout.splitlines()
        assert {line.split()[1] for line in listing} == {"root/root"}

    def test_conffiles(self, package: Package) -> None:
        assert package.control_file("conffiles").split() == [
            "/etc/default/dynstack-probe",
            "/etc/dynstack-probe/config.toml",
        ]

    def test_checksums(self, package: Package) -> None:
        sums = package.control_file("md5sums")
        checked = subprocess.run(
            ["md5sum", "--check", "--quiet"], input=sums, text=True, cwd=package.root, check=False
        )
        assert checked.returncode == 0
        assert len(sums.splitlines()) == len(package.files()) - 2  # conffiles are not in it

    def test_changelog_is_this_versions(self, package: Package) -> None:
        with gzip.open(package.root / "usr/share/doc/dynstack-probe/changelog.gz", "rt") as log:
            assert log.readline().startswith(f"dynstack-probe ({__version__}) ")

    def test_same_sources_same_bytes(self, package: Package, tmp_path: Path) -> None:
        again = build(tmp_path, LC_ALL="C", TZ="Pacific/Kiritimati")
        assert again.read_bytes() == package.deb.read_bytes()


@needs_build_tools
class TestControl:
    def test_fields(self, package: Package) -> None:
        assert package.field("Package") == "dynstack-probe"
        assert package.field("Version") == __version__
        assert package.field("Architecture") == "all"

    def test_dependencies_are_those_of_pyproject(self, package: Package) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        wanted = {f"python3 ({project['requires-python'].replace('>=', '>= ')})", "python3-bpfcc"}
        for dependency in project["dependencies"]:
            found = re.match(r"([\w-]+)>=([\d.]+)", dependency)
            assert found, dependency
            name = {"PyYAML": "yaml"}.get(found[1], found[1])
            wanted.add(f"python3-{name} (>= {found[2]})")
        # dh_python3 adds the interpreter once more, of any architecture
        assert set(package.field("Depends").split(", ")) == wanted | {"python3:any (>= 3.11~)"}

    @pytest.mark.parametrize("script", ["postinst", "prerm", "postrm"])
    def test_scripts_handle_bytecode_and_the_unit(self, package: Package, script: str) -> None:
        text = package.control_file(script)
        wanted = {"postinst": "py3compile", "prerm": "py3clean", "postrm": "daemon-reload"}
        assert wanted[script] in text
        assert "dynstack-probe.service" in text or script == "postrm"

    @needs("lintian", "lintian")
    def test_lintian(self, package: Package) -> None:
        """The source package, too: the changes name both."""
        (changes,) = package.deb.parent.glob("*.changes")
        result = run("lintian", "--pedantic", "--fail-on", "error,warning,pedantic", changes)
        assert result.stdout == ""
        assert result.returncode == 0


def test_a_version_without_changelog_is_refused(tmp_path: Path) -> None:
    shutil.copytree(PACKAGING, tmp_path / "packaging")
    (tmp_path / "dynstack_probe").mkdir()
    (tmp_path / "dynstack_probe/__init__.py").write_text('__version__ = "99"\n')
    result = run(tmp_path / "packaging/build-deb.sh", tmp_path)
    assert result.returncode == 1
    assert "please add an entry" in result.stderr


class TestUnit:
    @needs("systemd-analyze", "systemd")
    def test_systemd_understands_it(self, tmp_path: Path) -> None:
        """Unknown settings, wrong values and commands that are not there are complaints."""
        unit = tmp_path / UNIT.name
        unit.write_text(UNIT.read_text().replace("/usr/bin/dynstack-probe", "/bin/true"))
        result = run("systemd-analyze", "verify", "--man=no", unit)
        assert result.stderr == ""
        assert result.returncode == 0

    @needs("systemd-analyze", "systemd")
    def test_exposure_is_at_most_2(self) -> None:
        result = run(
            *("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=20"),
            UNIT,
        )
        assert result.returncode == 0, result.stdout

    def test_two_capabilities(self) -> None:
        lines = UNIT.read_text().splitlines()
        assert "AmbientCapabilities=CAP_BPF CAP_PERFMON" in lines
        assert "CapabilityBoundingSet=CAP_BPF CAP_PERFMON" in lines

    def test_options_that_it_uses_exist(self) -> None:
        start = next(line for line in UNIT.read_text().splitlines() if line.startswith("ExecStart"))
        _, command, *options = start.split()
        assert {option for option in options if option[0] == "-"} <= set(commands()[command])

    def test_configuration_sets_nothing_but_shows_all(self, tmp_path: Path) -> None:
        text = (PACKAGING / "config.toml").read_text()
        assert tomllib.loads(text) == {}
        shown = tmp_path / "config.toml"
        shown.write_text(re.sub(r"^#(\w+ = )", r"\1", text, flags=re.MULTILINE))
        assert set(tomllib.loads(shown.read_text())) == set(vars(Config()))
        # the interval adapts unless it is set
        assert replace(read_config(shown), interval_seconds=None) == Config()


def commands() -> dict[str, list[str]]:
    """Each subcommand's long options."""
    group = typer.main.get_group(cli.app)
    return {
        name: [
            option
            for parameter in command.params
            for option in (*parameter.opts, *parameter.secondary_opts)
            if option.startswith("--")
        ]
        for name, command in group.commands.items()
    }


class TestManual:
    SOURCE = PACKAGING / "dynstack-probe.1"

    @needs("man", "man-db")
    def test_renders_without_warnings(self) -> None:
        result = run("man", "--warnings", "-E", "UTF-8", "-l", self.SOURCE, MANWIDTH="80")
        assert result.stderr == ""
        assert "dynstack-probe — what dynamic kernel stacks" in result.stdout
        assert max(len(line) for line in result.stdout.splitlines()) <= 80

    @needs("mandoc", "mandoc")
    def test_mandoc(self) -> None:
        result = run("mandoc", "-T", "lint", "-W", "warning", self.SOURCE)
        assert result.stdout == ""

    @pytest.mark.parametrize("command", sorted(commands()))
    def test_tells_of_each_option(self, command: str) -> None:
        text = self.SOURCE.read_text()
        assert f".It Cm {command}\n" in text
        for option in commands()[command]:
            assert f"Fl {option[1:]}" in text, option

    @pytest.mark.parametrize("code", range(5))
    def test_exit_codes(self, code: int) -> None:
        section = self.SOURCE.read_text().partition(".Sh EXIT STATUS")[2]
        assert f".It {code}\n" in section.partition(".Sh ")[0]


@needs_build_tools
class TestCompletion:
    @pytest.fixture
    def path(self, package: Package, tmp_path: Path) -> str:
        """A PATH with the packaged command in front."""
        command = tmp_path / "dynstack-probe"
        real = package.root / "usr/bin/dynstack-probe"
        modules = package.root / MODULES
        command.write_text(
            "#!/bin/sh\nexport PYTHONDONTWRITEBYTECODE=1\n"
            f'PYTHONPATH={modules} exec {SYSTEM_PYTHON} {real} "$@"\n'
        )
        command.chmod(0o755)
        return f"{tmp_path}:{os.environ['PATH']}"

    def test_bash(self, package: Package, path: str) -> None:
        completions = package.root / "usr/share/bash-completion/completions/dynstack-probe"
        script = (
            f"source {completions}; COMP_WORDS=(dynstack-probe estimate --by k); COMP_CWORD=3;"
            ' _dynstack_probe_completion dynstack-probe; echo "${COMPREPLY[@]}"'
        )
        assert run("bash", "-c", script, PATH=path).stdout == "kind\n"

    @needs("zsh", "zsh")
    def test_zsh(self, package: Package, path: str) -> None:
        """The first Tab loads the file, and must already be answered."""
        folder = package.root / "usr/share/zsh/vendor-completions"
        script = (
            f"fpath=({folder} $fpath); autoload -Uz _dynstack-probe;"
            " _arguments() { print -r -- $1 }; words=(dynstack-probe est); CURRENT=2;"
            " _dynstack-probe"
        )
        result = run("zsh", "-fc", script, PATH=path)
        assert "estimate" in result.stdout, result.stderr

    @needs("fish", "fish")
    def test_fish(self, package: Package, path: str) -> None:
        file = package.root / "usr/share/fish/vendor_completions.d/dynstack-probe.fish"
        script = f"source {file}; complete --do-complete 'dynstack-probe est'"
        assert run("fish", "-Nc", script, PATH=path).stdout.startswith("estimate")


@needs_build_tools
class TestInstalled:
    def test_version(self, package: Package) -> None:
        result = package.command("--version")
        assert (result.stdout, result.stderr) == (f"dynstack-probe {__version__}\n", "")

    def test_it_uses_its_own_probes(self, package: Package) -> None:
        code = "from dynstack_probe import loader; print(loader.probes_dir())"
        modules = package.root / MODULES
        result = run(
            SYSTEM_PYTHON, "-c", code, PYTHONPATH=str(modules), PYTHONDONTWRITEBYTECODE="1"
        )
        assert result.stdout == f"{modules}/dynstack_probe/probes\n"

    @pytest.mark.live
    @needs_bpf
    def test_doctor(self, package: Package) -> None:
        result = package.command("doctor")
        assert result.returncode == 0, result.stdout
        assert "works; read" in result.stdout

    @pytest.mark.live
    @needs_bpf
    def test_estimate(self, package: Package) -> None:
        result = package.command("estimate")
        assert result.returncode == 0, result.stderr
        assert "This host" in result.stdout


@needs_build_tools
@needs_bpf
@needs("systemd-analyze", "systemd")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
class TestInTheUnitsSandbox:
    """User nobody, two capabilities, the unit's system-call filter, no W+X memory."""

    def command(self, package: Package, *command: str | Path) -> list[str | Path]:
        script = package.root.parent / SANDBOX.name  # where nobody can read it
        shutil.copy(SANDBOX, script)
        unit = package.root / "usr/lib/systemd/system/dynstack-probe.service"
        return [SYSTEM_PYTHON, script, unit, *command]

    def environment(self, package: Package) -> dict[str, str]:
        return {
            "PYTHONPATH": str(package.root / MODULES),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def confined(self, package: Package, *command: str | Path) -> subprocess.CompletedProcess[str]:
        return run(*self.command(package, *command), **self.environment(package))

    @pytest.mark.live
    def test_estimate(self, package: Package) -> None:
        command = package.root / "usr/bin/dynstack-probe"
        result = self.confined(package, SYSTEM_PYTHON, command, "estimate")
        assert result.returncode == 0, result.stderr
        assert "This host" in result.stdout

    @pytest.mark.live
    def test_serve(self, package: Package) -> None:
        """As systemd starts, watches and ends it."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        notify = package.root.parent / "notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(str(notify))
            manager.settimeout(30)
            notify.chmod(0o777)
            process = subprocess.Popen(
                self.command(
                    *(package, SYSTEM_PYTHON, package.root / "usr/bin/dynstack-probe", "serve"),
                    *("--config", package.root / "etc/dynstack-probe/config.toml"),
                    *("--listen", f"127.0.0.1:{port}"),
                ),
                cwd="/",
                env={**os.environ, **self.environment(package), "NOTIFY_SOCKET": str(notify)},
            )
            try:
                while b"READY=1" not in manager.recv(4096).splitlines():
                    pass
                url = f"http://127.0.0.1:{port}/metrics"
                with urllib.request.urlopen(url, timeout=10) as page:
                    assert b"\ndynstack_tasks{" in page.read()
                status = Path(f"/proc/{process.pid}/status").read_text()
                assert f"CapPrm:\t{0:016x}\n" in status
                assert "Seccomp:\t2\n" in status
                process.terminate()
                assert process.wait(timeout=5) == 0
            finally:
                process.kill()
                process.wait()

    @pytest.mark.parametrize(
        "forbidden",
        [
            "import os; os.chroot('/')",
            "import os; os.nice(1)",
            "import mmap; mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)",
        ],
    )
    def test_the_sandbox_is_one(self, package: Package, forbidden: str) -> None:
        result = self.confined(package, SYSTEM_PYTHON, "-c", forbidden)
        assert "PermissionError" in result.stderr

    @pytest.mark.live
    def test_a_filter_that_forbids_bpf_is_named(self, package: Package) -> None:
        """As of a container: both capabilities are there, and yet it is not permitted."""
        unit = package.root / "usr/lib/systemd/system/dynstack-probe.service"
        strict = package.root.parent / "strict.service"
        strict.write_text(unit.read_text().replace("=bpf perf_event_open", "=perf_event_open"))
        command = self.command(package, SYSTEM_PYTHON, package.root / "usr/bin/dynstack-probe")
        command[2] = strict
        result = run(*command, "estimate", **self.environment(package))
        assert result.returncode == 4
        assert "a seccomp filter, as containers have, forbids it" in result.stderr
        assert len(result.stderr.splitlines()) == 1

    def test_capabilities_can_be_dropped(self, package: Package) -> None:
        code = (
            "import pathlib; from dynstack_probe.kernel.privileges import drop_privileges;"
            "drop_privileges(); print(pathlib.Path('/proc/self/status').read_text())"
        )
        result = self.confined(package, SYSTEM_PYTHON, "-c", code)
        for held in ("CapPrm", "CapEff", "CapAmb"):
            assert f"{held}:\t{0:016x}\n" in result.stdout


def test_the_image_runs_what_the_package_brings() -> None:
    text = (PACKAGING / "Containerfile").read_text()
    assert "COPY dist/dynstack-probe_*_all.deb" in text
    assert 'ENTRYPOINT ["/usr/bin/dynstack-probe"]' in text
