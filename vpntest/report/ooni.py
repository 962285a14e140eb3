"""The report in OONI's data format: one JSON document a line, one for each vantage and platform.

    base format (df-000) + queries (df-002) + tcp_connect (df-005) + tls_handshakes (df-006) + requests (df-001)
    + network_events (df-008), and keys of our own that say what was concluded

Nothing here is ever submitted by vpntest, and others must not submit it as if it were the line's: OONI takes what was
measured through a VPN for contamination. So the test has a name of its own, each line says how it was measured, and
the probe's country and network stand only in lines that were measured outside; an exit's are unknown.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from vpntest.failures import Failure
from vpntest.judge.verdict import Cell, Judgement, PlatformVerdict, TunnelVerdict
from vpntest.probe.observation import (
    DnsAnswer,
    HttpExchange,
    Observation,
    QuicHandshake,
    Record,
    RungStep,
    TcpConnect,
    TlsHandshake,
    Transfer,
    TunnelFacts,
)
from vpntest.tunnel.vantage import OUTSIDE

TEST_NAME: Final = "vpntest"
TEST_VERSION: Final = "0.1.0"
"""Raised when a key of ours changes its meaning."""
DATA_FORMAT: Final = "0.2.0"
"""What OONI's probe writes; the README of its data formats counts on, without another change of the base."""
EXTENSIONS: Final = {"dnst": 0, "httpt": 0, "netevents": 0, "tcpconnect": 0, "tlshandshake": 0, "tunnel": 0}

_UNKNOWN_ASN, _UNKNOWN_COUNTRY = "AS0", "ZZ"
_HIDDEN_PROBE, _HIDDEN_RESOLVER = "127.0.0.1", "127.0.0.2"
"""What OONI writes in place of an address that is not told."""
_RCODES = {"NOERROR": 0, "FORMERR": 1, "SERVFAIL": 2, "NXDOMAIN": 3, "NOTIMP": 4, "REFUSED": 5}
_OURS = frozenset(
    {
        Failure.AUTH_REJECTED,
        Failure.INVALID,
        Failure.UNSUPPORTED,
        Failure.REFUSED,
        Failure.CARRIER_EXITED,
        Failure.STALLED,
    }
)
"""Failures that OONI has no word for (df-007)."""


def render(record: Record, judgement: Judgement) -> Iterator[str]:
    """The lines, each with its newline: `outside` first, then the tunnels, in the record's order."""
    observations: dict[tuple[str, str | None], list[Observation]] = {}
    for one in record.observations:
        observations.setdefault((one.vantage, one.platform), []).append(one)
    outside = {verdict.platform: verdict for verdict in judgement.outside}
    cells = {(cell.tunnel, cell.platform): cell for cell in judgement.cells}
    tunnels = {tunnel.tunnel: tunnel for tunnel in judgement.tunnels}
    for facts in (None, *record.tunnels):
        vantage = facts.name if facts else OUTSIDE
        rungs = [one for one in observations.get((vantage, None), ()) if isinstance(one.details, RungStep)]
        about = _tunnel(facts, tunnels.get(vantage), rungs) if facts else {}
        for platform in record.platforms:
            cell = cells.get((vantage, platform.id))
            verdict = outside.get(platform.id) if facts is None else cell.inside if cell else None
            those = observations.get((vantage, platform.id), [])
            keys = {**about, **_concluded(judgement, verdict, cell), **_archived(those)}
            measurement = {**_base(record, facts, platform.id, those), "test_keys": keys}
            yield json.dumps(measurement, ensure_ascii=False, separators=(",", ":")) + "\n"


def _base(record: Record, facts: TunnelFacts | None, platform: str, those: list[Observation]) -> dict[str, Any]:
    run = record.run
    there = run.vantage if facts is None else None
    annotations = {
        "network_type": "unknown" if facts is None else "vpn",
        "vpntest_vantage": facts.name if facts else OUTSIDE,
        "vpntest_through_vpn": "false" if facts is None else "true",
        "vpntest_run": run.id,
        "vpntest_complete": "true" if run.complete else "false",
        "vpntest_submission": "never submitted by itself",
    }
    if facts is not None:
        annotations["vpntest_tunnel_kind"] = facts.kind.value
    if run.redacted:
        annotations["vpntest_redacted"] = "; ".join(run.redacted)
    return {
        "annotations": annotations,
        "data_format_version": DATA_FORMAT,
        "extensions": EXTENSIONS,
        "input": platform,
        "input_hashes": [],
        "measurement_start_time": _time(run.started, 0.0),
        "options": [],
        "probe_asn": f"AS{there.asn}" if there and there.asn is not None else _UNKNOWN_ASN,
        "probe_cc": there.country if there and there.country else _UNKNOWN_COUNTRY,
        "probe_ip": _HIDDEN_PROBE,
        "probe_network_name": "",
        "report_id": "",
        "resolver_asn": _UNKNOWN_ASN,
        "resolver_ip": _HIDDEN_RESOLVER,
        "resolver_network_name": "",
        "software_name": "vpntest",
        "software_version": run.version,
        "test_helpers": {},
        "test_name": TEST_NAME,
        "test_runtime": max((one.t for one in those), default=0.0),
        "test_start_time": _time(run.started, 0.0),
        "test_version": TEST_VERSION,
    }


def _time(started: str, after: float) -> str:
    try:
        began = datetime.fromisoformat(started).astimezone(UTC)
    except ValueError:
        began = datetime.fromtimestamp(0, UTC)
    return (began + timedelta(seconds=after)).strftime("%Y-%m-%d %H:%M:%S")


def _tunnel(facts: TunnelFacts, verdict: TunnelVerdict | None, rungs: list[Observation]) -> dict[str, Any]:
    """df-009's keys, and how far the tunnel got."""
    climbed = bool(rungs) and all(one.failure is None for one in rungs)
    failure = next((_failure(one.failure) for one in rungs if one.failure is not None), None)
    return {
        "tunnel": facts.kind.value,
        "bootstrap_time": max(one.t for one in rungs) - min(one.t0 for one in rungs) if climbed else 0,
        "tunnel_failure": failure,
        "tunnel_stage": verdict.stage if verdict else None,
        "tunnel_mechanism": verdict.mechanism if verdict else None,
        "tunnel_rule": verdict.rule if verdict else None,
    }


def _concluded(judgement: Judgement, verdict: PlatformVerdict | None, cell: Cell | None) -> dict[str, Any]:
    """What vpntest says. Null where nothing was measured, or nothing judged."""
    return {
        "state": verdict.state.value if verdict else None,
        "mechanism": verdict.mechanism if verdict else None,
        "rule": verdict.rule if verdict else judgement.line_rule,
        "witnesses": list(verdict.witnesses) if verdict else [],
        "outcome": cell.outcome.value if cell else None,
        "outcome_rule": cell.rule if cell else None,
    }


def _archived(those: list[Observation]) -> dict[str, Any]:
    """The observations, each in the format that OONI has for its sort; what it has none for is in `x_observations`."""
    keys: dict[str, Any] = {"agent": "agent"}
    lists = ("queries", "tcp_connect", "tls_handshakes", "quic_handshakes", "requests", "network_events")
    keys |= {name: [] for name in (*lists, "x_observations")}
    for one in those:
        match one.details:
            case DnsAnswer():
                keys["queries"].append(_query(one, one.details))
            case TcpConnect():
                keys["tcp_connect"].append(_connect(one, one.details))
                address = _endpoint(one.details.ip, one.details.port)
                keys["network_events"].append(_event(one, "connect", address=address, proto="tcp"))
            case TlsHandshake():
                keys["tls_handshakes"].append(_handshake(one, one.details))
            case QuicHandshake():
                keys["quic_handshakes"].append(_handshake(one, one.details))
            case HttpExchange():
                keys["requests"].append(_request(one, one.details))
            case Transfer():
                way = "read" if one.details.direction == "down" else "write"
                event = _event(one, way, address=one.details.address or "", num_bytes=one.details.bytes)
                keys["network_events"].append({**event, "x_samples": one.details.samples})
            case _:
                keys["x_observations"].append(msgspec.to_builtins(one))
    return keys


def _common(one: Observation) -> dict[str, Any]:
    tags = [f"role={one.role}", f"probe={one.probe}", f"attempt={one.attempt}"]
    tags += [f"{name}={value}" for name, value in (("service", one.service), ("endpoint", one.endpoint)) if value]
    return {
        "t0": one.t0,
        "t": one.t,
        "transaction_id": one.transaction,
        "tags": tags,
        "x_observation": one.id,
    }


def _failure(failure: str | None) -> str | None:
    return f"unknown_failure: {failure}" if failure in _OURS else failure


def _event(one: Observation, operation: str, **more: Any) -> dict[str, Any]:
    return {
        "operation": operation,
        "failure": _failure(one.failure),
        "conn_id": one.transaction,
        **more,
        **_common(one),
    }


def _query(one: Observation, details: DnsAnswer) -> dict[str, Any]:
    key = "ipv4" if details.query_type == "A" else "ipv6"
    answers = [{"answer_type": details.query_type, key: address, "ttl": None} for address in details.answers]
    query = {
        "answers": answers,
        "engine": details.engine,
        "failure": _failure(one.failure),
        "hostname": details.hostname,
        "query_type": details.query_type,
        "resolver_address": details.resolver_address,
        "resolver_hostname": None,
        "resolver_port": None,
        "x_resolver": details.resolver,
        "x_late_answers": details.late,
        **_common(one),
    }
    if details.rcode in _RCODES:
        query["rcode"] = _RCODES[details.rcode]
    return query


def _connect(one: Observation, details: TcpConnect) -> dict[str, Any]:
    status = {"failure": _failure(one.failure), "success": one.failure is None}
    return {"ip": details.ip, "port": details.port, "status": status, **_common(one)}


def _handshake(one: Observation, details: TlsHandshake | QuicHandshake) -> dict[str, Any]:
    """Certificates are not kept, but for the digest of the leaf."""
    is_tls = isinstance(details, TlsHandshake)
    return {
        "network": "tcp" if is_tls else "udp",
        "address": details.address,
        "cipher_suite": details.cipher_suite or "" if isinstance(details, TlsHandshake) else "",
        "conn_id": one.transaction,
        "failure": _failure(one.failure),
        "negotiated_protocol": details.negotiated_protocol or "",
        "no_tls_verify": details.no_tls_verify,
        "peer_certificates": [],
        "server_name": details.server_name,
        "tls_version": details.tls_version or "" if isinstance(details, TlsHandshake) else "TLSv1.3",
        "x_peer_certificate_sha256": details.peer_certificate,
        "x_issuer": details.issuer,
        **_common(one),
    }


def _request(one: Observation, details: HttpExchange) -> dict[str, Any]:
    headers = {name: value for name, value in (("Location", details.location), ("Server", details.server)) if value}
    response = None
    if details.code is not None:
        response = {
            # Bodies are not kept.
            "body": "",
            "body_is_truncated": bool(details.body_length),
            "code": details.code,
            "headers": headers,
            "headers_list": [[name, value] for name, value in headers.items()],
            "x_body_length": details.body_length,
            "x_title": details.title,
        }
    return {
        "failure": _failure(one.failure),
        "request": {
            "body": "",
            "body_is_truncated": False,
            "headers": {},
            "headers_list": [],
            "method": details.method,
            "tor": {"exit_ip": None, "exit_name": None, "is_tor": False},
            "url": details.url,
            "x_transport": "udp" if details.alpn == "h3" else "tcp",
        },
        "response": response,
        **_common(one),
    }


def _endpoint(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
