"""What a share link, or a client's own document, says of one proxy; and the sing-box outbound that it means.

Sans-I/O. Links, subscriptions and documents differ in grammar only. Each reader takes its own grammar apart into a
:class:`Proxy`, in the words of the share links; what these words mean, and which of them cannot be honoured, is said
here once.

The words (names of `parameters`; every value is text, decoded, a yes is `1` or `true`, a list has commas):

    any          udp (0: the config itself lets no UDP pass)  mux (h2mux smux yamux: sing-mux)  mux-padding
                 mux-connections  mux-min-streams  mux-streams  tfo
    TLS          security (none tls reality)  sni  alpn  fp  insecure  disable-sni  pbk  sid  spx  ech (base64)
                 ca (PEM)  pin (base64 of SHA-256 of public keys)  pcs  vcn  pqv  tls-min  tls-max  client-cert
                 client-key (both PEM)
    transport    type (tcp ws grpc http httpupgrade …)  host  path  serviceName  authority  mode  headerType  method
                 headers (a JSON object of further ones)  ed  eh  seed  extra  fm
    Shadowsocks  plugin (`name;key=value;…`)  uot (1, 2)  prefix
    VLESS        flow  encryption  packetEncoding
    VMess        aid  scy  packetEncoding  global-padding  authenticated-length
    Hysteria2    obfs  obfs-password  mport  hop-interval (seconds)  up  down (Mbit/s)  pinSHA256
    TUIC         congestion_control  udp_relay_mode  udp-over-stream  reduce-rtt  heartbeat (seconds)  version  token
    SOCKS        version (5 4 4a)  uot
    HTTP         path  headers
    SSH          private-key (PEM)  passphrase  host-key (one each line)

A name that is none of these is left out with a note. Of a document's own names that have no word here, its reader says
itself what is to become of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from vpntest.plan.model import Finding, Kind, ProxyConfig


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
    """By the names above. Empty values say nothing."""
    label: str = ""
    """What the source calls it: printable, and of a stranger."""
    findings: list[Finding] = field(default_factory=list)
    """What its reader has to say of it already; :func:`outbound` gives these back before its own."""


def outbound(proxy: Proxy) -> tuple[ProxyConfig, tuple[Finding, ...]]:
    """What the proxy means to sing-box, and what a reader should know of it.

    Leaves `proxy` as it is. Raises ConfigError for a broken one, its subclass Unsupported for one that asks for what
    is not carried, with the parameter's name.
    """
    raise NotImplementedError
