"""What a source says of one proxy, in the words of the share links, and how the value of a word is taken.

Sans-I/O. Each reader of links, subscriptions and documents takes its own grammar apart into a :class:`Proxy`.

The words (names of `parameters`; every value is text, decoded, a yes is `1` or `true`, a list has commas):

    any          udp (0: the config itself lets no UDP pass)  mux (h2mux smux yamux: sing-mux)  mux-padding
                 mux-connections  mux-min-streams  mux-streams  tfo
                 fragment  noise (both: how the first packets are cut and what goes before them)
    TLS          security (none tls reality)  sni (absent: the first `host`, else the server)  alpn  fp  insecure
                 disable-sni  pbk  sid  spx  ech (base64)  ca (PEM)  pin (base64 of SHA-256 of public keys)  pcs  vcn
                 pqv  tls-min  tls-max  client-cert  client-key (both PEM)
    transport    type (tcp ws grpc http httpupgrade …)  host (absent: the name in TLS, else the server)  path
                 serviceName  authority  mode  headerType  method  headers (a JSON object of further ones)
                 ed  eh (absent: Sec-WebSocket-Protocol; `path`: behind the path)  seed  extra  fm
    Shadowsocks  plugin (`name;key=value;…`)  uot (1, 2)  prefix
    VLESS        flow  encryption  packetEncoding
    VMess        aid  scy  packetEncoding  global-padding  authenticated-length
    Hysteria2    obfs  obfs-password  mport  hop-interval (seconds, or from-to)  up  down (Mbit/s)  pinSHA256
    TUIC         congestion_control  udp_relay_mode  udp-over-stream  reduce-rtt  heartbeat (seconds)  version  token
    SOCKS        version (5 4 4a)  uot
    HTTP         path  headers
    SSH          private-key (PEM)  passphrase  host-key (one each line)

A name that is none of these is left out with a note. Of a document's own names that have no word here, its reader says
itself what is to become of them. HTTP/1.1 without TLS, which sing-box calls `http` too, is `type` tcp and `headerType`
http here, as in the links.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NoReturn
from uuid import UUID

from vpntest.errors import ConfigError
from vpntest.plan import syntax
from vpntest.plan.model import Finding, Kind, Server
from vpntest.plan.secret import Secret
from vpntest.plan.syntax import Unsupported

USER_ID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}", re.IGNORECASE)
"""A UUID as clients write it."""
_LONGEST_USER = 30
"""Bytes. A shorter user id that is no UUID is hashed to one, by Xray (common/uuid) as by sing-vmess."""
_NUMBER = re.compile(r"([0-9]{1,6})(?:\.[0-9]+)? *(?:s|mbps)?", re.IGNORECASE)
PEM = re.compile(r"\s*-----BEGIN ([A-Z0-9 ]{1,32})-----\s[A-Za-z0-9+/=\s:,.-]+-----END \1-----\s*")
"""One block, with what it calls itself."""
YES = frozenset({"1", "true", "t", "yes", "y", "on"})
NO = frozenset({"", "0", "false", "f", "no", "n", "off", "none"})
"""What clients write for a yes and for a no, in lower case."""
_CHANGING = frozenset(
    """
    plugin obfs obfs-password flow prefix pinSHA256 pcs vcn pqv fm ech ca pin client-cert client-key mport token mux uot
    tls-min tls-max disable-sni reduce-rtt udp-over-stream headers fragment noise
    """.split()
)
"""Words that change what is spoken, so that one which its kind has no use for must not be dropped."""
WORDS = frozenset(
    """
    udp mux mux-padding mux-connections mux-min-streams mux-streams tfo security sni alpn fp insecure disable-sni pbk
    sid spx ech ca pin pcs vcn pqv tls-min tls-max client-cert client-key type host path serviceName authority mode
    headerType method headers ed eh seed extra fm plugin uot prefix flow encryption packetEncoding aid scy
    global-padding authenticated-length obfs obfs-password mport hop-interval up down pinSHA256 congestion_control
    udp_relay_mode udp-over-stream reduce-rtt heartbeat version token private-key passphrase host-key fragment noise
    """.split()
)
"""All names that parameters can have."""


@dataclass
class Proxy:
    """One proxy as it was found: all decoded, nothing judged. Its `repr` shows nothing that could be a secret."""

    kind: Kind
    where: str
    """The place in messages."""
    host: str
    """As written; IPv6 without brackets."""
    ports: str
    """`443`, for Hysteria2 also `443,8000-9000`; empty where there is none."""
    username: str = field(default="", repr=False)
    """Of Shadowsocks its method; of VLESS, VMess and TUIC the UUID; of SOCKS, HTTP and SSH the name."""
    password: str = field(default="", repr=False)
    parameters: dict[str, str] = field(default_factory=dict, repr=False)
    """By the names above. Empty values say nothing."""
    label: str = ""
    """What the source calls it: printable, and of a stranger."""
    findings: list[Finding] = field(default_factory=list)
    """What its reader has to say of it already; `proxies.outbound` gives these back before its own."""
    dialect: Literal["link", "xray", "sing-box", "clash"] = "link"
    """Whose words these are: where nothing is said, each client takes something else. Of links the reference is Xray;
    what sing-box's own documents say is sent as it stands."""


class Reading:
    """A proxy being read. Each reader takes its words out; what is left over in the end is judged by its name."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.words = {name: text for name, value in proxy.parameters.items() if (text := value.strip())}
        self.findings = list(proxy.findings)
        self.needs: set[str] = set()
        self.unverified = False
        self.udp = True
        # Outline's prefix is bytes, and is not read here.
        values = (value for name, value in proxy.parameters.items() if name != "prefix")
        for text in (proxy.username, proxy.password, *values):
            if not syntax.is_plain(text.replace("\n", "")):
                self.broken("a control character in a value")
        if "\n" in proxy.username:
            self.broken("the user's name is more than one line")
        self.host = self._host()

    def broken(self, reason: str) -> NoReturn:
        raise ConfigError(reason, where=self.proxy.where)

    def unsupported(self, reason: str) -> NoReturn:
        raise Unsupported(reason, where=self.proxy.where)

    def find(self, level: Literal["note", "warning", "danger"], text: str) -> None:
        self.findings.append(Finding(level, text))

    @property
    def by_xray(self) -> bool:
        """Whether Xray is the reference: of links for what it speaks, AnyTLS' for one it does not."""
        usual = self.proxy.kind in (Kind.VLESS, Kind.VMESS, Kind.TROJAN)
        return self.proxy.dialect == "xray" or (usual and self.proxy.dialect == "link")

    def take(self, name: str) -> str:
        """The word's value, which is no longer left over; empty where there is none."""
        return self.words.pop(name, "")

    def line(self, name: str) -> str:
        """As :meth:`take`, for what must be one line."""
        value = self.take(name)
        if "\n" in value:
            self.broken(f"`{name}` is more than one line")
        return value

    def yes(self, name: str) -> bool:
        value = self.take(name).lower()
        if value not in YES and value not in NO:
            self.find("warning", f"`{name}` says neither yes nor no, and is taken for a no")
        return value in YES

    def number(self, name: str) -> int:
        """A whole number; 0 where there is none."""
        value = self.take(name)
        found = _NUMBER.fullmatch(value)
        if value and not found:
            self.broken(f"`{name}` is not a number")
        return int(found[1]) if found else 0

    def choice(self, name: str, choices: Iterable[str]) -> str:
        """One of the choices, which are in lower case, or nothing."""
        value = self.take(name).lower()
        if value and value not in choices:
            self.unsupported(f"`{name}` has a value that is not carried")
        return value

    def drop(self, names: Iterable[str], why: str) -> None:
        """Leaves words out that mean nothing here, with a note."""
        gone = [name for name in names if self.take(name).lower() not in NO]
        if gone:
            self.find("note", f"{_listed(gone)} ignored: {why}")

    def left_over(self) -> None:
        """Judges what no reader took."""
        self.drop(("tfo",), "it opens connections faster, and speaks the same")
        if self.words.get("type", "").lower() in ("tcp", "udp", "raw", "quic", self.proxy.kind.value):
            del self.words["type"]
        meant = [name for name in self.words if name in _CHANGING and self.words[name].lower() not in NO]
        if meant:
            self.unsupported(f"{_listed(meant)} cannot be honoured with {self.proxy.kind.value}")
        self.drop([name for name in self.words if name in WORDS], f"no meaning with {self.proxy.kind.value}")
        if self.words:
            # Their names stay unsaid: behind a stray `&` a name may be a piece of a password.
            self.find("note", f"{len(self.words)} unknown parameter{'s' * (len(self.words) > 1)} ignored")

    def port(self, default: int | None = None) -> int:
        if not self.proxy.ports and self.proxy.dialect != "link":
            self.broken("no port of the server")  # documents have no defaults
        if not self.proxy.ports and default is not None:
            return default
        try:
            return syntax.port(self.proxy.ports)
        except ValueError as fault:
            self.broken(str(fault))

    def tcp(self, default: int | None = None) -> Server:
        return Server(host=self.host, port=self.port(default), transport="tcp")

    def password(self, *, empty: bool = False) -> Secret:
        if not self.proxy.password and not empty:
            self.broken("no password")
        if "\n" in self.proxy.password:
            self.broken("the password is more than one line")
        return Secret(self.proxy.password)

    def user_id(self) -> Secret:
        """A UUID, or the short word that clients make one of."""
        user = self.proxy.username.strip()
        if found := USER_ID.fullmatch(user.strip("{}")):
            return Secret(str(UUID(found[0])))
        if not user or len(user.encode()) > _LONGEST_USER:
            self.broken(f"the user id is neither a UUID nor a word of up to {_LONGEST_USER} bytes")
        self.find("note", "the user id is no UUID; one is made of it, as clients do")
        return Secret(user)

    def _host(self) -> str:
        host = self.proxy.host.strip()
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        if not host.isascii():
            self.find("note", "the host is not ASCII, and is read in its xn-- form")
        try:
            return syntax.host(ascii_host(host))
        except ValueError as fault:
            self.broken(str(fault))


def ascii_host(name: str) -> str:
    """A name as resolvers and servers see it: labels that are not ASCII in their xn-- form. Raises ValueError."""
    if name.isascii():
        return name
    # A label has at most 63 characters; the codec takes much longer than linear for more.
    if len(name) > 253 or any(len(label) > 63 for label in re.split("[.\u3002\uff0e\uff61]", name)):
        raise ValueError("the host is neither a name nor an address")
    try:
        return name.encode("idna").decode("ascii")
    except UnicodeError:
        raise ValueError("the host is neither a name nor an address") from None


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))
