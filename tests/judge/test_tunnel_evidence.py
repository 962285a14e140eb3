"""What bears on a tunnel: the ladder, and what gives a leak away. The rest its rules show, case by case."""

from __future__ import annotations

from records import ISP_RESOLVER, LINE_EXIT, TRUE, World

from vpntest.judge.reading import read
from vpntest.judge.tunnel_evidence import TunnelEvidence, evidence_of
from vpntest.probe.observation import Address


def evidence(made: World) -> TunnelEvidence:
    return evidence_of(read(made.record()), made.tunnels[0])


def test_a_gap_in_the_ladder_is_not_climbed_over() -> None:
    made = World()
    made.line()
    made.tunnel("t", carry=False)
    assert evidence(made).climbed == "auth"
    made.observations = [one for one in made.observations if getattr(one.details, "rung", "") != "handshake"]
    assert evidence(made).climbed == "endpoint"


def test_a_leak_names_both_addresses() -> None:
    made = World()
    made.line()
    made.tunnel("t", exit=LINE_EXIT)
    ((mechanism, witnesses),) = evidence(made).leaks
    assert mechanism == "leak.exit"
    assert len(witnesses) == 2


def test_unknown_addresses_are_no_leak() -> None:
    made = World()
    made.line(resolver=None)
    made.tunnel("t", exit=None)
    assert evidence(made).leaks == ()
    assert not evidence(made).exit_known


def test_one_resolver_on_both_sides_tells_nothing() -> None:
    made = World()
    made.line()
    made.tunnel("t", exit=None)
    made.add("t", "carry", "resolve", made.dns("control.example", [TRUE], asked=ISP_RESOLVER), role="control")
    made.addresses("t", exit="198.18.200.1", resolver=ISP_RESOLVER)
    assert evidence(made).leaks == ()


def test_a_resolver_is_known_by_its_ipv6_address_too() -> None:
    def found(inside: str) -> list[str]:
        made = World()
        made.line(resolver=None)
        made.tunnel("t", exit=None)
        for vantage, address in (("outside", "fd00::53"), ("t", inside)):
            made.add(vantage, "resolver", "resolve", Address("resolver", 6, address))
        return [mechanism for mechanism, _ in evidence(made).leaks]

    assert found("fd00::53") == ["leak.dns"]
    assert found("fd00::77") == []
