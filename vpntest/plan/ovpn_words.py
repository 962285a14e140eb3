"""OpenVPN's vocabulary, 2.3 to 2.7, and the fate of each word. Tables only; ovpn.py reads configs by them.

Names, numbers of arguments and values are those of add_option() in OpenVPN's src/openvpn/options.c (v2.6.14, and of the
other versions what v2.6.14 lacks). The tests hold them against the program itself.

Fates: handed on · left out, with a finding · material, which becomes an inline block · read one by one in ovpn.py ·
unsupported, because without it another protocol would be spoken · refused, because it loads code.
"""

from __future__ import annotations

from typing import Literal

Level = Literal["note", "warning", "danger"]

MAX_LINE = 254
"""Bytes of a line that OpenVPN takes (OPTION_LINE_SIZE, less line feed and end mark); inline blocks have no limit."""
MAX_WORDS = 16
"""Words of a directive that OpenVPN takes (MAX_PARMS)."""


def _each(table: dict[tuple[int, int], str]) -> dict[str, tuple[int, int]]:
    return {name: counts for counts, names in table.items() for name in names.split()}


HANDED_ON = _each(
    {
        (
            0,
            0,
        ): """client tls-client pull nobind float fast-io persist-key persist-tun persist-local-ip persist-remote-ip
            auth-nocache comp-noadapt mtu-test mute-replay-warnings passtos ping-timer-rem tcp-nodelay tls-exit
            disable-occ allow-recursive-routing no-replay""",
        (0, 1): "comp-lzo compress explicit-exit-notify",
        (0, 2): "mssfix replay-window",
        (0, 15): "remote-cert-ku socket-flags",
        (1, 1): """allow-compression auth cipher data-ciphers data-ciphers-fallback ncp-ciphers tls-cipher
            tls-ciphersuites tls-groups ecdh-curve tls-version-max tls-cert-profile key-direction tls-timeout
            connect-retry-max connect-timeout server-poll-timeout resolv-retry hand-window tran-window reneg-bytes
            reneg-pkts link-mtu udp-mtu tun-mtu-extra max-packet-size mtu-disc sndbuf rcvbuf txqueuelen topology ping
            ping-restart ping-exit session-timeout remote-cert-eku remote-cert-tls ns-cert-type peer-fingerprint""",
        (1, 2): """connect-retry fragment reneg-sec tls-version-min tun-mtu tun-mtu-max verify-x509-name verify-hash
            inactive compat-mode""",
        (1, 15): "x509-username-field dns",
        (2, 2): "ifconfig ifconfig-ipv6 keepalive pull-filter",
        (4, 4): "client-nat",
    }
)
"""Written out anew as they are; with the least and most arguments that OpenVPN takes."""

VALUES = {
    "allow-compression": "yes no asym",
    "comp-lzo": "yes no adaptive",
    "compress": "stub stub-v2 migrate lzo lz4 lz4-v2",
    "key-direction": "0 1",
    "mtu-disc": "yes maybe no",
    "ns-cert-type": "client server",
    "remote-cert-tls": "client server",
    "tls-version-min": "1.0 1.1 1.2 1.3",
    "tls-version-max": "1.0 1.1 1.2 1.3",
    "topology": "net30 p2p subnet",
    "pull-filter": "accept ignore reject",
}
"""What the first argument may be, for those that take nothing else."""

PROFILE = frozenset(
    """
    float link-mtu udp-mtu tun-mtu tun-mtu-max tun-mtu-extra max-packet-size fragment mtu-disc mssfix key-direction
    """.split()
)
"""Of those handed on, what a <connection> may hold for itself alone, and that changes what is spoken or how packets
look."""
PROFILE_PATIENCE = frozenset(
    "nobind connect-retry connect-retry-max connect-timeout server-poll-timeout explicit-exit-notify".split()
)
"""What a <connection> may hold as well, and that only says how patiently and how politely."""
PROFILE_OTHERS = frozenset(
    """
    remote proto port rport local lport bind tls-auth tls-crypt tls-crypt-v2 http-proxy http-proxy-option
    http-proxy-retry http-proxy-timeout socks-proxy socks-proxy-retry mtu-dynamic setenv
    """.split()
)
"""The rest that a <connection> may hold (OPT_P_CONNECTION)."""

_LEFT_OUT: tuple[tuple[Level, str, str], ...] = (
    (
        "danger",
        "it would have run a program on this machine, as root",
        """up down route-up route-pre-down ipchange iproute tls-verify auth-user-pass-verify client-connect
        client-disconnect client-crresponse learn-address dns-updown tls-crypt-v2-verify plugin""",
    ),
    (
        "danger",
        "it would have written to a file of this machine, as root",
        """log log-append status writepid replay-persist ifconfig-pool-persist tls-export-cert tmp-dir
        auth-gen-token-secret""",
    ),
    (
        "danger",
        "it would have opened a way to control OpenVPN",
        """management management-client management-client-auth management-client-group management-client-pf
        management-client-user management-external-cert management-external-key management-forget-disconnect
        management-hold management-log-cache management-query-passwords management-query-proxy management-query-remote
        management-signal management-up-down msg-channel""",
    ),
    (
        "danger",
        "it would have changed what OpenVPN may do and see on this machine",
        "chroot cd setcon mktun rmtun inetd",
    ),
    (
        "note",
        "every packet of the tunnel's namespace goes through the tunnel anyway",
        """redirect-gateway redirect-private route route-ipv6 route-nopull route-noexec ifconfig-noexec ifconfig-nowarn
        route-metric route-delay route-gateway route-ipv6-gateway route-method route-table max-routes allow-pull-fqdn
        block-ipv6 tun-ipv6 foreign-option""",
    ),
    (
        "note",
        "it is for Windows",
        """block-outside-dns register-dns ip-win32 dhcp-renew dhcp-release dhcp-pre-release dhcp-internal rdns-internal
        tap-sleep win-sys windows-driver pause-exit service show-net-up allow-nonadmin""",
    ),
    (
        "note",
        "what OpenVPN writes down is set by vpntest",
        """verb mute suppress-timestamps machine-readable-output errors-to-stderr echo parameter status-version memstats
        x509-track""",
    ),
    (
        "note",
        "how OpenVPN runs on this machine is set by vpntest",
        """script-security up-delay up-restart down-pre daemon syslog nice mlock disable-dco auth-retry remap-usr1
        preresolve local lport bind bind-dev multihome mark dev-node lladdr keying-material-exporter""",
    ),
    (
        "note",
        "it has no effect on a client",
        """push dh max-clients max-routes-per-client connect-freq connect-freq-initial bcast-buffers tcp-queue-limit
        single-session ifconfig-push-constraint http-proxy-retry http-proxy-timeout socks-proxy-retry prng
        use-prediction-resistance allow-deprecated-insecure-static-crypto""",
    ),
    ("note", "the servers are tried in the file's order", "remote-random"),
    ("warning", "the servers' names are looked up as they stand", "remote-random-hostname"),
    ("warning", "the tunnel's own speed is measured", "shaper gremlin"),
    ("warning", "it tells the server this machine's hardware address", "push-peer-info"),
)
LEFT_OUT: dict[str, tuple[Level, str]] = {
    name: (level, reason) for level, reason, names in _LEFT_OUT for name in names.split()
}
"""What acts on this machine only, or is so anyway: what is spoken with a server stays the same without it. A plugin
too: on a client it may look on and run things, but has no say in what is sent."""

_UNSUPPORTED = {
    "a proxy before the server": """http-proxy http-proxy-option http-proxy-user-pass http-proxy-override
        socks-proxy""",
    "a static key instead of TLS, which OpenVPN is giving up and whose progress nothing shows": "secret",
    "a patch that the OpenVPN of Debian and Ubuntu does not have": "scramble obfs",
    "an answer typed in at each connection": "static-challenge",
    "a sign-in with a browser": "auth-federate",
    "a private key with a passphrase": "askpass",
    "a token of an earlier session": "auth-token auth-token-user override-username",
    "a key on a smart card": """pkcs11-id pkcs11-id-management pkcs11-private-mode pkcs11-protected-authentication
        pkcs11-cert-private pkcs11-pin-cache""",
    "a certificate in the store of Windows": "cryptoapicert",
    "a folder of authorities; put them into <ca>": "capath",
    "another file read into this one; put its lines here": "config",
    "another address than the server's name has": "ip-remote-hint remote-ip-hint",
    "a server's directive": """server server-ipv6 server-bridge tls-server mode client-config-dir ccd-exclusive
        ifconfig-pool ifconfig-pool-linear ifconfig-ipv6-pool ifconfig-push ifconfig-ipv6-push iroute iroute-ipv6
        push-remove push-reset push-continuation client-to-client duplicate-cn port-share hash-size stale-routes-check
        vlan-tagging vlan-accept vlan-pvid verify-client-cert client-cert-not-required username-as-common-name
        auth-user-pass-optional opt-verify auth-gen-token force-tls-key-material-export tls-crypt-v2-max-age disable
        peer-id key-derivation protocol-flags""",
    "OpenVPN would print something and end": """genkey help version test-crypto show-adapters show-ciphers show-curves
        show-digests show-engines show-gateway show-groups show-net show-pkcs11-ids show-tls show-valid-subnets""",
    "OpenVPN replaced it by `fragment` long ago": "mtu-dynamic",
    "OpenVPN 2.5 dropped it": "compat-names no-name-remapping",
}
UNSUPPORTED = {name: reason for reason, names in _UNSUPPORTED.items() for name in names.split()}
"""What the tunnel would not be itself without, and that is not carried."""

REMOVED = {
    "keysize": "OpenVPN 2.6 dropped it: a cipher with a key of another length than its own",
    "ncp-disable": "OpenVPN 2.6 dropped it: the cipher is negotiated always",
    "no-iv": "OpenVPN 2.5 dropped it: a weakened cipher",
    "tls-remote": "OpenVPN 2.4 dropped it: `verify-x509-name` took its place",
    "key-method": "OpenVPN 2.5 dropped its first method",
}
"""Unsupported as well, but OpenVPN 2.6 does not know them at all, so that `setenv opt` and the like pass over them."""

REFUSED = {
    "providers": "it loads code of the config's choosing into OpenVPN",
    "pkcs11-providers": "it loads code of the config's choosing into OpenVPN",
    "engine": "it loads code of the config's choosing into OpenVPN",
}
"""What runs code as root whatever the options around it, and without which another protocol would be spoken."""
OWN_PROVIDERS = frozenset({"default", "legacy"})
"""Providers that are OpenSSL's own, and so may be handed on: old ciphers live in the second."""
LEGACY_CIPHERS = ("BF-", "DES-", "CAST5-", "RC2-", "RC4", "SEED-", "IDEA-", "DESX-")
"""How the ciphers begin that OpenSSL 3 keeps in its provider `legacy` (DES-EDE3 apart), which OpenVPN does not load by
itself."""

_STATIC_KEY = "OpenVPN Static key V1"
_CERTIFICATE = "(?:X509 |TRUSTED )?CERTIFICATE"
MATERIAL = {
    "ca": _CERTIFICATE,
    "cert": _CERTIFICATE,
    "extra-certs": _CERTIFICATE,
    "key": "(?:[A-Z]+ )?PRIVATE KEY",
    "crl-verify": "X509 CRL",
    "tls-auth": _STATIC_KEY,
    "tls-crypt": _STATIC_KEY,
    "tls-crypt-v2": "OpenVPN tls-crypt-v2 client key",
    "pkcs12": "",
}
"""Directives whose argument is a file, and that may stand as inline blocks instead; with the label of the PEM blocks
that are taken. Empty: the file is binary."""

OWN = frozenset(
    """
    remote proto proto-force port rport dev dev-type auth-user-pass dhcp-option ignore-unknown-option connection
    setenv setenv-safe user group
    """.split()
)
"""Directives that ovpn.py reads one by one."""

HARMLESS_VARIABLES = (
    "FRIENDLY_NAME CLIENT_CERT FORWARD_COMPATIBLE PUSH_PEER_INFO REMOTE_RANDOM_HOSTNAME SERVER_POLL_TIMEOUT USERNAME "
    "ALLOW_PASSWORD_SAVE AUTOLOGIN PROFILE PROFILE_NAME".split()
)
"""What `setenv` sets for clients, not for programs; `UV_…` and `IV_…` besides, which a server is told."""
NOBODIES = frozenset({"nobody", "nogroup", "openvpn", "_openvpn"})
"""Users and groups that OpenVPN drops to, to be allowed less."""

VOCABULARY = sorted(
    HANDED_ON.keys() | LEFT_OUT.keys() | UNSUPPORTED.keys() | REMOVED.keys() | REFUSED.keys() | MATERIAL.keys() | OWN
)
"""Every directive known here."""
