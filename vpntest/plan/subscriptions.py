"""Reads the lists and documents in which Shadowsocks and Outline hand out servers.

Sans-I/O. SIP008 (shadowsocks.org/doc/sip008), Shadowsocks' own `config.json` and `gui-config.json`, and what an Outline
access key's address answers (developers.google.com/outline/docs/reference/config).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vpntest.errors import ConfigError
from vpntest.plan import outcome, syntax
from vpntest.plan.model import Entry, Kind
from vpntest.plan.outbounds import place, yes
from vpntest.plan.proxy_words import Proxy
from vpntest.plan.trees import Keys, Table


def is_shadowsocks(table: Any) -> bool:
    """Whether a table describes one Shadowsocks server."""
    return isinstance(table, Table) and "server" in table and ("method" in table or "server_port" in table)


def shadowsocks(servers: list[Any], where: str) -> Iterator[Entry]:
    """The entries of a list of Shadowsocks servers: SIP008's `servers`, `configs` of the Windows client, one alone."""
    if not servers:
        yield outcome.faulty(ConfigError("the list holds no server", where=where))
    for number, one in enumerate(servers, 1):
        if not isinstance(one, Table):
            yield outcome.faulty(ConfigError("not a table of settings", where=f"{where}: server {number}"))
            continue
        name = one.get("remarks") or one.get("name") or one.get("tag") or ""
        yield outcome.proxied(
            lambda one=one: _server(one, where),  # type: ignore[misc]
            Kind.SHADOWSOCKS,
            line=one.line,
            label=name if isinstance(name, str) else "",
        )


def _server(table: Table, where: str) -> Proxy:
    keys = Keys(table, where, lenient=True)
    # Where and how the client listens itself, and what a provider shows beside it.
    keys.leave("id", "remarks", "name", "tag", "group", "warnLegacyUrl", "timeout", "remarks_base64", "enable", "owner")
    keys.leave("local_address", "local_port", "mode", "fast_open", "nameserver", "workers", "ipv6_first", "reuse_port")
    keys.leave("no_delay", "user", "locals", "plugin_args", "udp_timeout", "keep_alive", "server_priority", "email")
    host = keys.texts("server")
    if len(host) > 1:
        keys.unsupported("`server` holds several, among which the client would change")
    # Bytes, not text; that there are some is enough to know.
    words: dict[str, str] = {"prefix": yes(keys.take("prefix") not in (None, ""))}
    proxy = Proxy(Kind.SHADOWSOCKS, place(keys), "".join(host), keys.number("server_port"), parameters=words)
    proxy.username, proxy.password = keys.text("method"), keys.text("password")
    plugin, options = keys.text("plugin"), keys.text("plugin_opts", "plugin_options", "pluginOpts")
    if plugin:
        words["plugin"] = f"{plugin};{options}" if options else plugin
    keys.done()
    return proxy


def outline(document: Table, where: str) -> Iterator[Entry]:
    """The entry of an Outline answer: `transport`, or the `error` that stands in its place."""
    if isinstance(document.get("error"), Table):
        fault = ConfigError("the provider answers with an error in place of a server", where=where)
        yield outcome.faulty(fault, Kind.SHADOWSOCKS)
        return
    yield outcome.proxied(lambda: _transport(document, where), Kind.SHADOWSOCKS)


def _transport(document: Table, where: str) -> Proxy:
    transport = document.get("transport")
    if not isinstance(transport, Table):
        # A short form of the same: an address with `ss://`, or a bare endpoint table.
        if isinstance(transport, str) and transport.startswith("ss://"):
            from vpntest.plan import links

            return links.proxy(transport, where)
        raise ConfigError("`transport` is not a table of settings", where=where, line=document.line)
    keys = Keys(transport, where, path="transport.")
    named = keys.text("$type").lower()
    if named == "shadowsocks" or (not named and "endpoint" in keys.table):
        return _dialer(keys)
    if named != "tcpudp":
        keys.unsupported("`transport.$type` is neither shadowsocks nor tcpudp")
    tcp, udp = keys.inner("tcp"), keys.inner("udp")
    keys.done()
    if tcp is None:
        keys.unsupported("`transport` carries no TCP")
    for inner in (tcp, udp):
        if inner and inner.text("$type").lower() not in ("", "shadowsocks"):
            inner.unsupported(f"{inner.named('$type')} is not shadowsocks")
    proxy = _dialer(tcp)
    if udp is None:
        proxy.parameters["udp"] = "0"
        return proxy
    other = _dialer(udp)
    if (proxy.host, proxy.ports, proxy.username, proxy.password) != (
        *(other.host, other.ports),
        *(other.username, other.password),
    ):
        udp.unsupported("UDP goes to another server than TCP")
    proxy.parameters["prefix"] = proxy.parameters["prefix"] or other.parameters["prefix"]
    return proxy


def _dialer(keys: Keys) -> Proxy:
    """One `$type: shadowsocks`."""
    endpoint = keys.take("endpoint")
    if isinstance(endpoint, Table):
        inner = Keys(endpoint, keys.where, path=f"{keys.path}endpoint.")
        if (named := inner.text("$type").lower()) != "dial":
            known = f"`{named}`" if named in ("websocket", "first-supported") else "a type of endpoint"
            keys.unsupported(f"{known} is not carried under Shadowsocks")
        endpoint = inner.text("address")
        inner.done()
    if not isinstance(endpoint, str):
        keys.broken("`endpoint` is not an address with a port")
    try:
        host, port = syntax.host_and_rest(endpoint)
    except ValueError as fault:
        keys.broken(f"`endpoint`: {fault}")
    proxy = Proxy(
        Kind.SHADOWSOCKS, place(keys), host, port, parameters={"prefix": yes(keys.take("prefix") not in (None, ""))}
    )
    proxy.username, proxy.password = keys.text("cipher"), keys.text("secret")
    keys.done()
    return proxy
