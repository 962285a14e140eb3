"""TLS that ends at the censor: for listed names under its own authority, for all others at the true server."""

from __future__ import annotations

import asyncio
import resource
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Iterator

import pytest
from censor_at_work import at_work, hello
from cryptography.hazmat.primitives.serialization import Encoding
from standing_lab import CURL_UNTRUSTED, StandingLab, standing

from vpntest.errors import CannotMeasure
from vpntest.lab.interceptor import Authority, page
from vpntest.lab.internet import NEUTRAL_NAME
from vpntest.lab.profiles import load
from vpntest.lab.rules import Intercept

NAMES = ("www.facebook.com", "www.instagram.com")


def test_an_authority_signs_for_the_name_it_is_asked_for() -> None:
    authority = Authority("Qaznet Trust Network")
    trusting = ssl.create_default_context(cadata=authority.certificate.public_bytes(Encoding.PEM).decode())
    near, far = socket.socketpair()
    serving = threading.Thread(
        target=lambda: authority.context("bird.example").wrap_socket(near, server_side=True).close()
    )
    serving.start()
    with trusting.wrap_socket(far, server_hostname="bird.example") as client:
        shown = client.getpeercert()
    serving.join()
    assert shown is not None
    assert shown["issuer"] == ((("commonName", "Qaznet Trust Network"),),)
    assert shown["subjectAltName"] == (("DNS", "bird.example"),)
    assert authority.context("bird.example") is authority.context("bird.example")


def test_a_page_is_a_whole_answer() -> None:
    head, _, body = page("<b>").partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert b"<title>&lt;b&gt;</title>" in body


# ── at work ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def lab() -> Iterator[StandingLab]:
    with standing(load("open")) as here:
        rule = Intercept(("facebook.com",), ("facebook", "instagram"), "Qaznet Trust Network", "x")
        with at_work(here, rule):
            yield here


def issuer(lab: StandingLab, name: str | None, address: str) -> str:
    """As openssl says it."""
    shown = ["-servername", name] if name else ["-noservername"]
    with lab.lab.client.entered():
        done = subprocess.run(
            ["openssl", "s_client", "-connect", f"{address}:443", *shown],
            input="",
            capture_output=True,
            text=True,
            timeout=20,
        )
    return next(line for line in done.stdout.splitlines() if line.startswith("issuer="))


@pytest.mark.root
def test_a_listed_name_gets_a_certificate_of_the_authority(lab: StandingLab) -> None:
    for address in (lab.lab.web.names[name] for name in NAMES):
        assert "CN = Qaznet Trust Network" in issuer(lab, "www.facebook.com", address)
        fetched = lab.curl("www.facebook.com", "/", "-k", address=address)
        assert (fetched.ok, fetched.code) == (True, 200)
    assert lab.curl("www.facebook.com").exit_status == 60  # the certificate cannot be verified


@pytest.mark.root
def test_others_are_relayed_to_the_true_server(lab: StandingLab) -> None:
    address = lab.lab.web.names["www.instagram.com"]
    for name in ("www.instagram.com", "notfacebook.com", None):
        assert "trustme" in issuer(lab, name, address)
    assert lab.curl("www.instagram.com").ok
    assert lab.curl(NEUTRAL_NAME, "/", "-k", address=address).ok


@pytest.mark.root
def test_addresses_off_its_way_are_left_alone(lab: StandingLab) -> None:
    address = lab.lab.web.names["twitter.com"]
    assert "trustme" in issuer(lab, "www.facebook.com", address)
    assert lab.curl("twitter.com").ok


@pytest.mark.root
def test_a_hello_in_pieces_is_waited_for(lab: StandingLab) -> None:
    """And what is no TLS goes on to the server, which says so."""
    address = lab.lab.web.names["www.instagram.com"]
    opening = hello("www.instagram.com")
    with lab.lab.client.socket(socket.AF_INET, socket.SOCK_STREAM) as asking:
        asking.settimeout(5)
        asking.connect((address, 443))
        for piece in (opening[:100], opening[100:]):
            asking.sendall(piece)
        assert asking.recv(3).startswith(b"\x16\x03")
    with lab.lab.client.socket(socket.AF_INET, socket.SOCK_STREAM) as asking:
        asking.settimeout(5)
        asking.connect((address, 443))
        asking.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert asking.recv(12).startswith(b"HTTP/1.1 400")


@pytest.mark.root
def test_a_connection_that_it_cannot_deal_with_ends_it(lab: StandingLab) -> None:
    rule = Intercept(("facebook.com",), ("facebook",), "Qaznet Trust Network", "x")
    with at_work(lab, rule):
        worker = lab.lab.network._daemons[-1]
        assert lab.curl("www.facebook.com").exit_status == CURL_UNTRUSTED
        # A client that goes is no fault of its own, and no descriptors is one.
        with lab.lab.client.socket(socket.AF_INET, socket.SOCK_STREAM) as gone:
            gone.connect((lab.lab.web.names["www.facebook.com"], 443))
            gone.sendall(hello("www.facebook.com")[:50])
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert lab.curl("www.facebook.com").exit_status == CURL_UNTRUSTED
        lab.runner.run(worker.check())
        resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (3, 3))
        assert lab.curl("www.facebook.com", "/", "-k", seconds=2).exit_status != 0
        with pytest.raises(CannotMeasure, match="the lab's interceptor on censor ended: a connection passes unseen: "):
            lab.runner.run(asyncio.wait_for(worker.says("a word that never comes"), 10))
