# SPDX-License-Identifier: GPL-2.0-or-later
"""Traffic between network namespaces; nothing leaves this machine."""

from __future__ import annotations

from tests.results.place import Place, load

RULES = """\
table bridge filter {
    chain forward { type filter hook forward priority 0; counter; }
}
table inet filter {
    chain input { type filter hook input priority 0; ct state established,related accept; }
    chain output { type filter hook output priority 0; counter; }
}
"""


@load(
    "iperf3",
    "iperf3, 8 TCP streams each way and UDP, two namespaces by veth, a bridge and nftables",
    *("iperf3", "nftables", "iproute2"),
)
def iperf3(place: Place) -> None:
    rules = place.files / "rules"
    rules.write_text(RULES)
    names = {end: f"dynstack-{end}" for end in ("left", "middle", "right")}
    for name in names.values():
        place.run("ip", "netns", "add", name)
        place.undo("ip", "netns", "del", name)

    def inside(end: str, *argv: str) -> None:
        place.run("ip", "netns", "exec", names[end], *argv)

    inside("middle", "ip", "link", "add", "bridge", "type", "bridge")
    inside("middle", "ip", "link", "set", "bridge", "up")
    for number, end in enumerate(("left", "right"), 1):
        inside("middle", "ip", "link", "add", end, "type", "veth", "peer", "name", "out")
        inside("middle", "ip", "link", "set", "out", "netns", names[end])
        inside("middle", "ip", "link", "set", end, "master", "bridge", "up")
        inside(end, "ip", "address", "add", f"10.111.0.{number}/24", "dev", "out")
        inside(end, "ip", "link", "set", "out", "up")
        inside(end, "ip", "link", "set", "lo", "up")
    for end in names:
        inside(end, "nft", "-f", str(rules))
    enter_left = ("ip", "netns", "exec", names["left"])
    enter_right = ("ip", "netns", "exec", names["right"])
    for port in (5201, 5202):
        place.start(*enter_right, "iperf3", "-s", "-p", str(port))
    place.run("sleep", "1")
    client = (*enter_left, "iperf3", "-c", "10.111.0.2", "-t", "3600")
    place.start(*client, "-p", "5201", "-P", "8", "--bidir")
    place.start(*client, "-p", "5202", "-u", "-b", "200M")
