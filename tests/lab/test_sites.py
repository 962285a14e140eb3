"""From platform files to addresses, certificates and an nginx that takes its configuration."""

from __future__ import annotations

import datetime
import subprocess
from pathlib import Path

import msgspec
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from vpntest.lab import http3
from vpntest.lab.network import program
from vpntest.lab.sites import (
    CHAIN_BYTES,
    PAGE_BYTES,
    Fault,
    Issuer,
    Listener,
    Manners,
    authority,
    issue,
    lay_out,
    write_control,
    write_http3,
    write_platforms,
    write_provider,
    write_site,
)
from vpntest.plan.model import Endpoint, Platform, Service


def platform(name: str, *urls: str, speed: str | None = None, **endpoint: object) -> Platform:
    endpoints = tuple(Endpoint(url=url, **endpoint) for url in urls)
    return Platform(id=name, title=name.title(), service=(Service(id="all", endpoint=endpoints),), speed=speed)


BIRD = platform("bird", "https://bird.example/", "https://media.example/x", speed="https://media.example/big")
BOOK = platform("book", "https://book.example/", "https://media.example/y")
GRAM = platform("gram", "http://203.0.113.5:443/", "http://203.0.113.6/", method="POST", status=(501, 200))
CHAT = platform("chat", "tcp://chat.example:443", "tcp://chat.example:5222", "https://chat.example/")
TUBE = platform(
    "tube", "https://tube.example/", "quic://tube.example/", "quic://tube.example/gone", speed="https://tube.example/"
)
CALL = platform("call", "https://call.example/", "stun://stun.call.example", "stun://stun.call.example:3479")


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


def test_udp_has_listeners_of_its_own() -> None:
    web = lay_out((TUBE, CALL), "198.18.1.0/24", "198.18.2.0/24")
    assert set(web.http3) == {Listener("198.18.1.1", 443)}
    assert set(web.http3[Listener("198.18.1.1", 443)]) == {"tube.example"}
    assert web.stun == {Listener("198.18.1.2", 3478), Listener("198.18.1.2", 3479)}
    assert web.names["stun.call.example"] == "198.18.1.2"
    assert set(web.endpoints) == {Listener("198.18.1.1", 443), Listener("198.18.1.2", 443)}
    assert web.addresses == {"tube": ["198.18.1.1"], "call": ["198.18.1.2"]}


def test_certificates_begin_when_the_world_says() -> None:
    now = datetime.datetime.now(datetime.UTC)
    for days in (0, 400):
        root, issuer = authority(days)
        leaf = x509.load_pem_x509_certificate(issuer.issue("a.example").cert_chain_pems[0].bytes())
        assert (leaf.not_valid_before_utc > now) == (days > 0)
        assert leaf.not_valid_before_utc < now + datetime.timedelta(days + 1)
        # Roots are old, and stay.
        assert x509.load_pem_x509_certificate(root.cert_pem.bytes()).not_valid_before_utc < now


@pytest.mark.parametrize("fault", ["expired", "wrong-name", "unknown-authority"])
def test_a_platforms_certificate_can_be_at_fault(tmp_path: Path, fault: Fault) -> None:
    root, issuer = authority()
    web = lay_out((BIRD, BOOK), "127.18.1.0/24", "127.18.2.0/24")
    write_platforms(tmp_path, web, issuer, Manners(certificates={"bird": fault}))
    trusted = x509.load_pem_x509_certificate(root.cert_pem.bytes())
    now = datetime.datetime.now(datetime.UTC)

    def faults(name: str) -> set[str]:
        chain = x509.load_pem_x509_certificates((tmp_path / f"{web.names[name]}.pem").read_bytes())
        names = chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return {
            *(["expired"] if chain[0].not_valid_after_utc < now else []),
            *(["wrong-name"] if name not in names.get_values_for_type(x509.DNSName) else []),
            *(["unknown-authority"] if chain[1].issuer != trusted.subject else []),
        }

    assert faults("bird.example") == {fault}
    assert faults("book.example") == set()


def test_pages_have_the_length_that_is_asked_for(tmp_path: Path) -> None:
    web = lay_out((BIRD, BOOK), "127.18.1.0/24", "127.18.2.0/24")
    write_platforms(tmp_path, web, authority()[1], Manners(page_bytes={"bird": 100_000}))
    sizes = {name: (tmp_path / "www" / f"{name}.html").stat().st_size for name in ("bird", "book")}
    assert 0 <= 100_000 - sizes["bird"] < 4
    assert 0 <= PAGE_BYTES - sizes["book"] < 4


def test_http3_has_the_web_servers_pages_and_certificates(tmp_path: Path) -> None:
    web = lay_out((TUBE, BIRD), "127.18.1.0/24", "127.18.2.0/24")
    manners = Manners(refuses=("bird",), challenges=("tube",), exits=("198.18.20.1",))
    write_platforms(tmp_path, web, authority()[1], manners)
    written = msgspec.json.decode(write_http3(tmp_path, web, manners).read_bytes(), type=http3.Settings)
    (server,) = written.servers
    assert (server.address, server.port) == ("127.18.1.1", 443)
    assert x509.load_pem_x509_certificates(Path(server.certificate).read_bytes())
    turned_away = http3.choose(server, "198.18.20.1", "tube.example", "/")
    assert (turned_away.status, turned_away.header) == (403, ("cf-mitigated", "challenge"))
    page = http3.choose(server, "198.19.0.2", "tube.example", "/gone")
    large = http3.choose(server, "198.19.0.2", "tube.example", "/")
    assert Path(large.file or "").stat().st_size > 10 * Path(page.file or "").stat().st_size
    abroad = write_http3(tmp_path, web, Manners(refuses_line=("tube",), line=("198.19.0.2",), exits=("198.18.20.1",)))
    (server,) = msgspec.json.decode(abroad.read_bytes(), type=http3.Settings).servers
    assert http3.choose(server, "198.19.0.2", "tube.example", "/").status == 403
    assert http3.choose(server, "198.18.20.1", "tube.example", "/") == large
    downed = write_http3(tmp_path, web, Manners(down=("tube",)))
    assert msgspec.json.decode(downed.read_bytes(), type=http3.Settings).servers == ()


@pytest.mark.parametrize("name", ["a.example", "a-rather-long-name.of-some-service.example"])
def test_chains_are_as_long_as_promised(tmp_path: Path, name: str) -> None:
    root = trustme.CA()
    issue(Issuer(root.create_child_ca()), [name], tmp_path / "chain.pem")
    chain = x509.load_pem_x509_certificates((tmp_path / "chain.pem").read_bytes())
    assert len(chain) == 2
    assert CHAIN_BYTES <= sum(len(one.public_bytes(Encoding.DER)) for one in chain) < CHAIN_BYTES * 1.2
    names = chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert name in names.get_values_for_type(x509.DNSName)


@pytest.mark.root
def test_nginx_takes_what_is_written(tmp_path: Path) -> None:
    _, issuer = authority()
    # Addresses that can be bound to here.
    web = lay_out((BIRD, BOOK, GRAM, CHAT, TUBE), "127.18.1.0/24", "127.18.2.0/24")
    manners = Manners(
        *(("book",), ("bird",), ("tube",), ("198.18.20.1",)),
        refuses_line=("gram",),
        challenges_line=("chat",),
        line=("198.19.0.2",),
    )
    written = [
        write_platforms(tmp_path / "web", web, issuer, manners),
        write_control(tmp_path / "control", issuer, ("127.0.0.1", "[::1]"), ("control.example",)),
        write_provider(tmp_path / "isp", "127.18.3.1", "127.18.3.2", "login.example"),
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
