"""What a share link, or a client's own document, says of one proxy; and the sing-box outbound that it means.

Sans-I/O. Links, subscriptions and documents differ in grammar only. Each reader takes its own grammar apart into a
:class:`Proxy`, in the words of the share links; what these words mean, and which of them cannot be honoured, is said
here once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from vpntest.plan.model import Kind


@dataclass
class Proxy:
    """One proxy as it was found: all decoded, nothing judged."""

    kind: Kind
    where: str
    """The place in messages."""
    host: str
    """As written; IPv6 without brackets."""
    ports: str
    """`443`, for Hysteria2 also `443,8000-9000`; empty where there is none."""
    username: str = ""
    """Of Shadowsocks its method; of VLESS, VMess and TUIC the UUID; of SOCKS, HTTP and SSH the name."""
    password: str = ""
    parameters: dict[str, str] = field(default_factory=dict)
    """By the names that share links have for them: `type` `security` `sni` `alpn` `fp` `insecure` `pbk` `sid` `path`
    `host` `serviceName` `flow` `encryption` `aid` `scy` `plugin` (`name;key=value`) `obfs` `obfs-password` `mport` …"""
    label: str = ""
    """What the source calls it."""
