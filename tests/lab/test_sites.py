"""From platform files to addresses, certificates and an nginx that takes its configuration."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from vpntest.lab.network import program
from vpntest.lab.sites import CHAIN_BYTES, Listener, issue, lay_out, write_control, write_platforms, write_site
from vpntest.plan.model import Endpoint, Platform, Service


def platform(name: str, *urls: str, speed: str | None = None, **endpoint: object) -> Platform:
    endpoints = tuple(Endpoint(url=url, **endpoint) for url in urls)
    return Platform(id=name, title=name.title(), service=(Service(id="all", endpoint=endpoints),), speed=speed)


BIRD = platform("bird", "https://bird.example/", "https://media.example/x", speed="https://media.example/big")
BOOK = platform("book", "https://book.example/", "https://media.example/y")
GRAM = platform("gram", "http://203.0.113.5:443/", "http://203.0.113.6/", method="POST", status=(501, 200))
CHAT = platform("chat", "tcp://chat.example:443", "tcp://chat.example:5222", "https://chat.example/")


def test_each_platform_has_an_address_of_its_own() -> None:
    web = lay_out((BIRD, BOOK), "198.18.1.0/24", "198.18.2.0/24")
    assert web.names["bird.example"] == "198.18.1.1"
    assert web.names["book.example"] == "198.18.1.2"
    # Shared by both: with the first, and counted among the addresses of both.
    assert web.names["media.example"] == "198.18.1.1"
    assert web.addresses == {"bird": ["198.18.1.1"], "book": ["198.18.1.2", "198.18.1.1"]}
    assert web.platform_of["198.18.1.1"] is BIRD


def test_each_literal_address_has_one_here() -> None:
    web = lay_out((GRAM,), "198.18.1.0/24", "198.18.2.0/24")
    assert web.literals == {"203.0.113.5": "198.18.2.1", "203.0.113.6": "198.18.2.2"}
    assert set(web.endpoints) == {Listener("198.18.2.1", 443), Listener("198.18.2.2", 80)}
    assert web.tls == set()


def test_a_bare_connect_takes_what_its_port_speaks() -> None:
    web = lay_out((CHAT,), "198.18.1.0/24", "198.18.2.0/24")
    assert set(web.endpoints) == {Listener("198.18.1.1", 443), Listener("198.18.1.1", 5222)}
    assert web.tls == {Listener("198.18.1.1", 443)}


@pytest.mark.parametrize("name", ["a.example", "a-rather-long-name.of-some-service.example"])
def test_chains_are_as_long_as_promised(tmp_path: Path, name: str) -> None:
    root = trustme.CA()
    issue(root.create_child_ca(), [name], tmp_path / "chain.pem")
    chain = x509.load_pem_x509_certificates((tmp_path / "chain.pem").read_bytes())
    assert len(chain) == 2
    assert CHAIN_BYTES <= sum(len(one.public_bytes(Encoding.DER)) for one in chain) < CHAIN_BYTES * 1.2
    names = chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert name in names.get_values_for_type(x509.DNSName)


@pytest.mark.root
def test_nginx_takes_what_is_written(tmp_path: Path) -> None:
    issuer = trustme.CA()
    # Addresses that can be bound to here.
    web = lay_out((BIRD, BOOK, GRAM, CHAT), "127.18.1.0/24", "127.18.2.0/24")
    written = [
        write_platforms(tmp_path / "web", web, issuer, down=("book",), refuses={"bird": ("198.18.20.1",)}),
        write_control(tmp_path / "control", issuer, ("127.0.0.1", "[::1]"), ("control.example",)),
        write_site(tmp_path / "site", issuer, "127.0.0.1", "site.example"),
    ]
    for file in written:
        done = subprocess.run(
            [program("nginx"), "-t", "-e", "stderr", "-p", str(file.parent), "-c", str(file)],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    assert "book.example" not in written[0].read_text()
