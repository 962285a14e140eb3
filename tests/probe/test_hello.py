"""JA4, against fingerprints that others have published with the lists that they are made of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpntest.probe.hello import ja4

CIPHERS = "1301 1302 1303 c02b c02f c02c c030 cca9 cca8 c013 c014 009c 009d 002f 0035"
"""Chrome's, in its own order."""
ALGORITHMS = "0403 0804 0401 0503 0805 0501 0806 0601"
GREASE = "1a1a"


def numbers(text: str) -> list[bytes]:
    return [bytes.fromhex(each) for each in text.split()]


def vector(data: bytes, width: int = 2) -> bytes:
    return len(data).to_bytes(width) + data


def hello(
    *,
    ciphers: str = CIPHERS,
    extensions: str = "",
    algorithms: str = ALGORITHMS,
    versions: str = "0304 0303",
    protocols: tuple[bytes, ...] = (b"h2", b"http/1.1"),
    legacy: str = "0303",
    record: int = 1 << 14,
) -> bytes:
    """A ClientHello of these extensions, in records of at most so many bytes."""
    bodies = {
        "0000": vector(b"\0" + vector(b"www.example.test")),
        "0010": vector(b"".join(vector(each, 1) for each in protocols)),
        "002b": vector(b"".join(numbers(versions)), 1),
        "000d": vector(b"".join(numbers(algorithms))),
    }
    listed = b"".join(bytes.fromhex(kind) + vector(bodies.get(kind, b"")) for kind in extensions.split())
    body = bytes.fromhex(legacy) + b"r" * 32 + vector(b"s" * 32, 1) + vector(b"".join(numbers(ciphers))) + b"\x01\x00"
    message = b"\x01" + vector(body + (vector(listed) if extensions else b""), 3)
    return b"".join(
        b"\x16\x03\x01" + vector(message[start : start + record]) for start in range(0, len(message), record)
    )


CHROME_2023 = "0000 0017 ff01 000a 000b 0023 0010 0005 000d 0012 0033 002d 002b 001b 4469 0015"
CHROME_2025 = "002d 0033 0010 fe0d 0017 44cd 0000 000b 000a 002b ff01 0023 0012 0005 000d 001b"


@pytest.mark.parametrize(
    ("extensions", "known"),
    [
        # The example in FoxIO's definition.
        (CHROME_2023, "t13d1516h2_8daaf6152771_e5627efa2ab1"),
        # Chrome 143, as browserleaks.com/tls shows it with these lists.
        (CHROME_2025, "t13d1516h2_8daaf6152771_d8a2da3f94cd"),
    ],
    ids=["definition", "chrome-143"],
)
def test_published_fingerprints(extensions: str, known: str) -> None:
    assert ja4(hello(extensions=extensions)) == known


def test_grease_and_order_change_nothing() -> None:
    """What Chrome does anew in each connection."""
    shuffled = " ".join([GREASE, *reversed(CHROME_2025.split()), "fafa"])
    drawn = hello(ciphers=f"{GREASE} {CIPHERS}", extensions=shuffled, versions=f"{GREASE} 0304 0303")
    assert ja4(drawn) == ja4(hello(extensions=CHROME_2025))


def test_the_order_of_signature_algorithms_counts() -> None:
    turned = hello(extensions=CHROME_2025, algorithms=" ".join(reversed(ALGORITHMS.split())))
    assert (ja4(turned) or "").startswith("t13d1516h2_8daaf6152771_")
    assert ja4(turned) != ja4(hello(extensions=CHROME_2025))


def test_a_hello_in_many_records() -> None:
    assert ja4(hello(extensions=CHROME_2025, record=7)) == ja4(hello(extensions=CHROME_2025))


@pytest.mark.parametrize(
    ("fields", "start"),
    [
        ({"extensions": "000a"}, "t12i150100_"),
        ({"extensions": "000a", "legacy": "0301"}, "t10i150100_"),
        ({"extensions": "000a", "legacy": "7f7f"}, "t00i150100_"),
        ({"extensions": "0000 002b", "versions": "0a0a 0303 0302"}, "t12d150200_"),
        ({"extensions": "0010", "protocols": (b"http/1.1",)}, "t12i1501h1_"),
        ({"extensions": "0010", "protocols": (b"\xab",)}, "t12i1501ab_"),
        ({"extensions": "0010", "protocols": (b"0\xab",)}, "t12i15013b_"),
        ({"extensions": "0010", "protocols": ()}, "t12i150100_"),
        ({"extensions": ""}, "t12i150000_"),
        ({"extensions": "000a", "ciphers": "1301 " * 120}, "t12i990100_"),
        ({"extensions": "000a", "ciphers": "", "legacy": "0300"}, "ts3i000100_000000000000_"),
    ],
)
def test_first_part(fields: dict[str, object], start: str) -> None:
    assert (ja4(hello(**fields)) or "").startswith(start)  # type: ignore[arg-type]


def test_nothing_to_hash() -> None:
    assert (ja4(hello(extensions="")) or "").endswith("_000000000000")
    assert (ja4(hello(extensions="0000 0010")) or "").endswith("_000000000000")


@pytest.mark.parametrize("count", range(0, 200, 7))
def test_half_a_hello_has_none(count: int) -> None:
    assert ja4(hello(extensions=CHROME_2025)[:count]) is None


@pytest.mark.parametrize(
    "data", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x15\x03\x03\x00\x02\x02\x28", b"\x16\x03\x01\x00\x00"]
)
def test_what_is_no_hello_has_none(data: bytes) -> None:
    assert ja4(data) is None


@given(st.binary(max_size=600))
def test_any_bytes(data: bytes) -> None:
    assert ja4(data) is None or data[:1] == b"\x16"


@given(st.integers(0, 300), st.integers(0, 255))
def test_a_broken_hello(place: int, value: int) -> None:
    data = bytearray(hello(extensions=CHROME_2025))
    data[place % len(data)] = value
    found = ja4(bytes(data))
    assert found is None or len(found) == 36
