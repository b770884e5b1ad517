# SPDX-License-Identifier: GPL-2.0-or-later
"""Tasks that are made, that sleep, and that end."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from tests.results.place import CGROUP, CLIENTS, Place, SetUpError, load

REDIS_SOURCE = "redis"
END_CONTAINERS = """\
for group in $(find /sys/fs/cgroup -depth -path "*$1*" -type d); do
    kill -9 $(cat "$group/cgroup.procs") 2>/dev/null
    rmdir "$group" 2>/dev/null
done
[ -z "$(find /sys/fs/cgroup -path "*$1*" -type d)" ]
"""


@load("idle", "nothing started")
def idle(place: Place) -> None:
    pass


@load("build", "make -j 4 of Debian's source of redis, over and over", "dpkg-dev", "gcc", "make")
def build(place: Place) -> None:
    source = debian_source(place, REDIS_SOURCE)
    place.shell(
        'cd "$1/src" && while make -j 4 MALLOC=libc redis-server; do make distclean; done',
        source,
    )


def debian_source(place: Place, package: str) -> Path:
    """Unpacked. By an apt configuration of our own: this host's lists stay as they are."""
    lists = place.files / "lists"
    lists.mkdir()
    sources = place.files / "sources.list"
    key = "/usr/share/keyrings/debian-archive-keyring.gpg"
    release = place.run("sh", "-c", '. /etc/os-release; echo "$VERSION_CODENAME"').strip()
    sources.write_text(f"deb-src [signed-by={key}] http://deb.debian.org/debian {release} main\n")
    options = [
        word
        for option in (
            f"Dir::Etc::sourcelist={sources}",
            "Dir::Etc::sourceparts=-",
            f"Dir::State::lists={lists}",
            "APT::Sandbox::User=root",
        )
        for word in ("-o", option)
    ]
    place.run("apt-get", *options, "update")
    place.run(
        *("sh", "-c", 'cd "$1"; shift; exec "$@"', "sh", place.files),
        *("apt-get", *options, "source", package),
    )
    return next(path for path in place.files.glob(f"{package}-*") if path.is_dir())


THREADS = 50_000


@load("sleepers", "50,000 threads asleep in four Python processes", seconds=12, interval=6)
def sleepers(place: Place) -> None:
    limit = Path("/proc/sys/kernel/pid_max")
    if int(limit.read_text()) < 3 * THREADS:
        place.setting(str(limit), str(3 * THREADS))
    processes = [
        place.start(sys.executable, CLIENTS / "sleepers.py", str(THREADS // 4)) for _ in range(4)
    ]
    end = time.monotonic() + 90
    while place.log.read_text().count("all asleep") < len(processes):
        place.check()
        if time.monotonic() > end:
            raise SetUpError(f"{THREADS} threads could not be made: {place.said()}")
        time.sleep(0.2)


@load("forks", "two shells that start ls, true, date, grep and a pipe without end", "dash")
def forks(place: Place) -> None:
    for _ in range(2):
        place.shell(
            "while :; do /bin/true; ls / | grep -q usr; date > /dev/null;"
            " echo $(uname -r | tr . -) > /dev/null; done"
        )


@load("churn", "cgroups made and removed, namespaces unshared, without end", "util-linux")
def churn(place: Place) -> None:
    place.shell("while :; do unshare --mount --pid --fork --net --ipc --uts --user true; done")
    if place.cgroup is not None:
        place.shell(
            'while :; do mkdir "$1"; sh -c \'echo $$ > "$1/cgroup.procs"; exec true\' sh "$1";'
            ' rmdir "$1"; done',
            place.cgroup / "child",
        )


@load(
    "containers",
    "runc run and delete of a busybox container, two at a time",
    "runc",
    "busybox-static",
)
def containers(place: Place) -> None:
    for number in range(2):
        name = f"dynstack-{number}"
        bundle = _bundle(place, f"/{CGROUP}-containers/{name}", name)
        state = bundle / "state"
        place.run("runc", "--root", state, "run", "-b", bundle, f"{name}-try")
        place.shell(
            'n=0; while :; do n=$((n+1)); runc --root "$1" run -b "$2" "$3-$n" > /dev/null; done',
            *(state, bundle, name),
        )


def _bundle(place: Place, cgroup: str, name: str) -> Path:
    """What runc needs: a root with busybox, and a configuration that runs ls in it."""
    bundle = place.files / name
    (bundle / "rootfs" / "bin").mkdir(parents=True)
    place.run("cp", "/bin/busybox", bundle / "rootfs" / "bin")
    place.run("runc", "spec", "-b", bundle)
    file = bundle / "config.json"
    configuration = json.loads(file.read_text())
    configuration["process"].update(terminal=False, args=["/bin/busybox", "ls", "/"])
    configuration["linux"]["cgroupsPath"] = cgroup
    file.write_text(json.dumps(configuration))
    # runc's own cgroups, in each hierarchy: a container that was being started lives on there
    group = str(Path(cgroup).parent)
    place.undo("sh", "-c", END_CONTAINERS, "sh", group)
    return bundle
