# SPDX-License-Identifier: GPL-2.0-or-later
"""Servers and their clients, all on the loopback interface."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.results.place import CLIENTS, Place, SetUpError, load

POSTGRES_PORT, NGINX_PORT, REDIS_PORT, MEMCACHED_PORT, JAVA_PORT = range(18431, 18436)


def _pgbench(place: Place, clients: int) -> None:
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        raise SetUpError("no PostgreSQL in /usr/lib/postgresql")
    bin_, data = programs[-1], place.files / "data"
    data.mkdir()
    as_postgres = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups")
    place.run("chown", "postgres:", data)
    place.run(*as_postgres, bin_ / "initdb", "-D", data, "-A", "trust", "-N")
    place.start(
        *(bin_ / "postgres", "-D", data, "-k", "", "-p", str(POSTGRES_PORT)),
        *("-c", "max_connections=600", "-c", "shared_buffers=256MB"),
        user="postgres",
    )
    place.wait_for_port(POSTGRES_PORT)
    server = ("-h", "127.0.0.1", "-p", str(POSTGRES_PORT), "-U", "postgres")
    # It listens before it takes anybody in.
    place.run("sh", "-c", 'until pg_isready -q "$@"; do sleep 0.1; done', "sh", *server)
    place.run("pgbench", *server, "-i", "-q", "-s", "10", "postgres")
    place.start(
        *("pgbench", *server, "-c", str(clients), "-j", "2", "-T", "3600", "postgres"),
    )


@load("pgbench-10", "PostgreSQL, pgbench -s 10 -c 10 (TPC-B)", "postgresql")
def pgbench_10(place: Place) -> None:
    _pgbench(place, 10)


@load("pgbench-100", "PostgreSQL, pgbench -s 10 -c 100 (TPC-B)", "postgresql")
def pgbench_100(place: Place) -> None:
    _pgbench(place, 100)


@load("pgbench-500", "PostgreSQL, pgbench -s 10 -c 500 (TPC-B)", "postgresql")
def pgbench_500(place: Place) -> None:
    _pgbench(place, 500)


@load("nginx", "nginx, 2 workers, a 16 KiB file; wrk -t 2 -c 200", "nginx-light", "wrk")
def nginx(place: Place) -> None:
    (place.files / "www").mkdir()
    (place.files / "www" / "page").write_bytes(b"x" * 16384)
    configuration = place.files / "nginx.conf"
    configuration.write_text(
        f"daemon off; worker_processes 2; pid {place.files}/pid;"
        f" error_log {place.files}/errors;"
        " events { worker_connections 2048; }"
        f" http {{ access_log {place.files}/access; sendfile on; server {{"
        f" listen 127.0.0.1:{NGINX_PORT}; root {place.files}/www; }} }}"
    )
    place.start("nginx", "-c", configuration)
    place.wait_for_port(NGINX_PORT)
    place.start("wrk", "-t2", "-c200", "-d3600", f"http://127.0.0.1:{NGINX_PORT}/page")


@load("redis", "redis-server; redis-benchmark -c 50, all its tests", "redis-server", "redis-tools")
def redis(place: Place) -> None:
    place.start(
        *("redis-server", "--port", str(REDIS_PORT), "--bind", "127.0.0.1"),
        *("--dir", place.files, "--save", "10 1", "--appendonly", "yes"),
    )
    place.wait_for_port(REDIS_PORT)
    place.start(
        *("redis-benchmark", "-h", "127.0.0.1", "-p", str(REDIS_PORT)),
        *("-c", "50", "-n", "100000", "-l", "-q"),
    )


@load("memcached", "memcached -t 4, 4,000 open connections, 2 clients asking", "memcached")
def memcached(place: Place) -> None:
    place.start(
        *("memcached", "-u", "nobody", "-l", "127.0.0.1", "-p", str(MEMCACHED_PORT)),
        *("-c", "8192", "-t", "4"),
    )
    place.wait_for_port(MEMCACHED_PORT)
    for _ in range(2):
        client = CLIENTS / "memcached.py"
        place.start(sys.executable, client, str(MEMCACHED_PORT), "2000")


@load(
    "java",
    "a Java HTTP server with a pool of 400 threads; wrk -c 400",
    "default-jdk-headless",
    "wrk",
)
def java(place: Place) -> None:
    place.start("java", "-Xmx512m", CLIENTS / "Server.java", str(JAVA_PORT), "400")
    place.wait_for_port(JAVA_PORT)
    place.start("wrk", "-t2", "-c400", "-d3600", f"http://127.0.0.1:{JAVA_PORT}/")
