"""Keys: made by python-wireguard, and by `cryptography` where that does not load; the two agree."""

from __future__ import annotations

import base64
import builtins
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from vpntest.plan import keys
from vpntest.plan.secret import Secret


@pytest.fixture(params=["python-wireguard", "cryptography"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Each way in turn. The second does what another processor's loader does."""
    real = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name == "python_wireguard":
            raise OSError("wrong ELF class")
        return real(name, *rest)

    keys._python_wireguard.cache_clear()
    if request.param == "cryptography":
        monkeypatch.setattr(builtins, "__import__", without)
        assert keys._python_wireguard() is None
    else:
        assert keys._python_wireguard() is not None
    yield request.param
    keys._python_wireguard.cache_clear()


def _derived(private: str) -> str:
    key = X25519PrivateKey.from_private_bytes(base64.b64decode(private)).public_key()
    return base64.b64encode(key.public_bytes_raw()).decode()


def test_a_pair_belongs_together(library: str) -> None:
    private, public = keys.generate()
    assert _derived(private.reveal()) == public
    assert keys.public_of(private) == public


def test_every_pair_is_another(library: str) -> None:
    assert len({keys.generate()[1] for _ in range(20)}) == 20


@given(raw=st.binary(min_size=32, max_size=32).filter(any))
def test_both_libraries_derive_the_same(raw: bytes) -> None:
    private = base64.b64encode(raw).decode()
    assert keys.public_of(Secret(private)) == _derived(private)


BAD = {
    "empty": "",
    "one short": "A" * 42 + "=",
    "one long": "A" * 44 + "=",
    "not base64": "!" * 44,  # python-wireguard makes the all-zero key of this one
    "all zeros": base64.b64encode(bytes(32)).decode(),
    "31 bytes": base64.b64encode(b"\1" * 31).decode(),
    "33 bytes": base64.b64encode(b"\1" * 33).decode(),
    "spare bits set": base64.b64encode(b"\1" * 32).decode()[:-2] + "F=",
    "URL-safe": "-" * 43 + "=",
    "not ASCII": "ж" * 44,
    "blank inside": "AAAA " + "A" * 38 + "=",
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD.keys())
def test_a_bad_key_is_refused_before_any_library_sees_it(text: str, library: str) -> None:
    with pytest.raises(ValueError, match="key") as caught:
        keys.check_key(text)
    assert not text or text not in str(caught.value)
    with pytest.raises(ValueError, match="key"):
        keys.public_of(Secret(text))


@given(text=st.text(max_size=60) | st.binary(min_size=30, max_size=34).map(lambda raw: base64.b64encode(raw).decode()))
def test_what_passes_is_a_key_and_is_returned_as_it_is(text: str) -> None:
    try:
        checked = keys.check_key(text)
    except ValueError:
        return
    assert checked == text
    raw = base64.b64decode(checked, validate=True)
    assert len(raw) == keys.KEY_BYTES
    assert any(raw)


def test_a_key_as_links_write_it() -> None:
    raw = bytes([0xFB, 0xFF, *range(30)])
    key = base64.b64encode(raw).decode()
    for text in (
        key,
        key.rstrip("="),
        base64.urlsafe_b64encode(raw).decode(),
        raw.hex(),
        raw.hex().upper(),
        f" {key}\n",
    ):
        assert keys.read_key(text) == key
    # The bits that base64 has to spare are cleared, or two spellings of one key would pass for two.
    assert keys.read_key(key[:42] + chr(ord(key[42]) + 1) + "=") == key
    for text in ("", key[:-2], key + "A", key[:20] + " " + key[20:], "0" * 64, "g" * 64, "A" * 43):
        with pytest.raises(ValueError, match="key") as fault:
            keys.read_key(text)
        assert not text or text not in str(fault.value)
