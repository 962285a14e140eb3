"""The words of verdicts are a contract: kept runs and programs that read them know no others."""

from __future__ import annotations

import pytest

from vpntest.judge.verdict import Outcome, State, TunnelVerdict
from vpntest.tunnel.ladder import RUNGS


def test_states_and_outcomes_are_those_of_the_contract() -> None:
    assert {*State} == {"ok", "blocked", "throttled", "refused", "down", "insufficient"}
    assert {*Outcome} == {
        "circumvents",
        "open",
        "blocked",
        "throttled",
        "partial",
        "refused",
        "breaks",
        "tunnel-down",
        "platform-down",
        "insufficient",
    }


@pytest.mark.parametrize("stage", ["none", *RUNGS])
def test_only_a_tunnel_on_the_last_rung_is_usable(stage: str) -> None:
    assert TunnelVerdict("t", stage, None, "", ()).usable is (stage == "up")
