# SPDX-License-Identifier: GPL-2.0-or-later
"""Keep many connections to memcached open, and set and get on one after another.

Usage: memcached.py PORT CONNECTIONS
"""

from __future__ import annotations

import itertools
import resource
import socket
import sys


def main() -> None:
    port, count = int(sys.argv[1]), int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_NOFILE, (count + 100, count + 100))
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
    value = b"v" * 1000
    for number, connection in zip(itertools.count(), itertools.cycle(connections)):
        key = b"key%d" % (number % 10_000)
        if number % 10 == 0:
            connection.sendall(b"set %s 0 0 %d\r\n%s\r\n" % (key, len(value), value))
        else:
            connection.sendall(b"get %s\r\n" % key)
        if not connection.recv(4096):
            raise SystemExit("memcached closed a connection")


if __name__ == "__main__":
    main()
