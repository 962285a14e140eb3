"""The state of a network namespace, for comparing it before and after."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

from vpntest.tunnel.namespace import Namespace


def state_of(netns: Namespace) -> dict[str, object]:
    """All of a namespace that a tunnel tool could have touched."""

    def ask(*argv: str) -> str:
        with netns.entered():
            return subprocess.run(argv, capture_output=True, text=True, check=True).stdout

    return {
        "links": sorted(link["ifname"] for link in json.loads(ask("ip", "-j", "link"))),
        "addresses": ask("ip", "-o", "addr"),
        "routes": ask("ip", "route", "show", "table", "all"),
        "routes6": ask("ip", "-6", "route", "show", "table", "all"),
        "rules": ask("ip", "rule") + ask("ip", "-6", "rule"),
        "nftables": ask("nft", "list", "ruleset"),
        "sysctls": "\n".join(
            line
            for line in ask("sysctl", "-a", "-r", r"^net\.").splitlines()
            if "neigh" not in line and "_rand" not in line
        ),
        "resolv.conf": hashlib.sha256(Path("/etc/resolv.conf").read_bytes()).hexdigest(),
    }
