"""The tables hold together, and OpenVPN itself knows the words as they say."""

from __future__ import annotations

import subprocess

import pytest

from vpntest.plan import ovpn_words as words

FATES = [
    words.HANDED_ON.keys(),
    words.LEFT_OUT.keys(),
    words.UNSUPPORTED.keys(),
    words.REMOVED.keys(),
    words.REFUSED.keys(),
    words.MATERIAL.keys(),
    words.OWN,
]
RUNS_CODE = set(
    "up down route-up route-pre-down ipchange tls-verify auth-user-pass-verify client-connect client-disconnect "
    "client-crresponse learn-address dns-updown tls-crypt-v2-verify plugin iproute".split()
)
WRITES = set("log log-append status writepid replay-persist ifconfig-pool-persist tls-export-cert tmp-dir".split())
ON_ANOTHER_SYSTEM = {
    name for name, (_, reason) in words.LEFT_OUT.items() if reason.endswith("Windows") and name != "block-outside-dns"
}


def test_a_directive_has_one_fate() -> None:
    names = [name for fate in FATES for name in fate]
    assert len(names) == len(set(names)) == len(words.VOCABULARY)


def test_what_acts_on_this_machine_is_left_out_as_a_danger() -> None:
    assert {name for name in RUNS_CODE | WRITES if words.LEFT_OUT[name][0] != "danger"} == set()


def test_what_a_connection_may_hold_is_known() -> None:
    assert words.HANDED_ON.keys() >= words.PROFILE | words.PROFILE_PATIENCE
    assert set(words.VOCABULARY) >= words.PROFILE_OTHERS
    assert words.VALUES.keys() <= words.HANDED_ON.keys()


@pytest.mark.root
def test_openvpn_does_not_know_what_is_said_to_be_gone() -> None:
    """Of each removed word, and of a known one, what OpenVPN says when it stands alone, and with one more."""

    def unknown(name: str) -> bool:
        said = ""
        for arguments in ("", " 1"):
            text = f"client\ndev tun\nremote 198.51.100.1\n{name}{arguments}\n".encode()
            done = subprocess.run(["openvpn", "--config", "stdin"], input=text, capture_output=True, timeout=20)
            said += done.stdout.decode()
        return said.count("Unrecognized option") == 2

    assert {name: unknown(name) for name in words.REMOVED} == dict.fromkeys(words.REMOVED, True)
    assert not unknown("cipher")
