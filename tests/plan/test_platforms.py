"""Platforms: the ones that come with vpntest, and what is refused in a user's own."""

from __future__ import annotations

import datetime
import ipaddress
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
import trustme
from cryptography.x509 import load_pem_x509_certificates
from hypothesis import given
from hypothesis import strategies as st

from vpntest.errors import ConfigError
from vpntest.plan import platforms
from vpntest.plan.model import Platform

BUILT_IN = platforms.built_in()
EXPECTED = {"facebook", "instagram", "messenger", "signal", "telegram", "twitter", "whatsapp", "youtube"}

GOOD = """
id = "mine"
title = "Mine"
[[service]]
id = "web"
endpoint = [{ url = "https://mine.example/" }, { url = "tcp://mine.example:5222" }]
"""


# ── the built-in ones ────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_promised_platforms_are_there() -> None:
    assert [platform.id for platform in BUILT_IN] == sorted(EXPECTED)
    assert all(platforms.find(platform.id) == platform for platform in BUILT_IN)


@pytest.mark.parametrize("platform", BUILT_IN, ids=lambda platform: platform.id)
def test_a_built_in_platform_is_short_and_says_where_it_is_from(platform: Platform) -> None:
    endpoints = [endpoint for service in platform.service for endpoint in service.endpoint]
    assert 1 <= len(endpoints) <= 5
    assert "2026" in platform.source
    assert platform.title


def test_telegram_is_plain_http_to_its_own_addresses() -> None:
    app = next(service for service in platforms.find("telegram").service if service.id == "app")
    assert app.rule == "any_of"
    for endpoint in app.endpoint:
        parts = urlsplit(endpoint.url)
        assert (parts.scheme, endpoint.method) == ("http", "POST")
        assert ipaddress.ip_address(parts.hostname or "") in ipaddress.ip_network("149.154.160.0/20")
        assert endpoint.status == (501,), "what a block page or a box on the way says is not Telegram's"
    assert {urlsplit(endpoint.url).port or 80 for endpoint in app.endpoint} == {80, 443}


def test_youtube_is_timed_by_the_name_that_is_throttled_and_not_by_a_page() -> None:
    youtube = platforms.find("youtube")
    assert youtube.speed is None
    assert youtube.throttled_name is not None
    assert youtube.throttled_name.endswith(".googlevideo.com")


@pytest.mark.parametrize(
    ("name", "service", "url"),
    [
        ("youtube", "quic", "quic://www.youtube.com/"),
        ("facebook", "quic", "quic://www.facebook.com/"),
        ("instagram", "quic", "quic://www.instagram.com/"),
        ("messenger", "calls", "stun://stun.fbsbx.com:3478"),
    ],
)
def test_udp_is_looked_at_and_decides_nothing(name: str, service: str, url: str) -> None:
    (found,) = (one for one in platforms.find(name).service if one.id == service)
    assert not found.required
    assert [endpoint.url for endpoint in found.endpoint] == [url]


def test_the_labs_own_platforms_can_be_read() -> None:
    own = {file.stem: platforms.load(file) for file in (platforms.configs() / "lab").glob("*.toml")}
    assert {*own} == {"refuser", "downer", "bystander", "plain"}
    assert all(platform.id == stem for stem, platform in own.items())
    assert "t.co" in urlsplit(own["bystander"].speed or "").netloc
    assert [endpoint.url for endpoint in own["plain"].service[0].endpoint] == ["http://www.plain.example/"]


def test_whatsapp_needs_any_of_its_chat_servers() -> None:
    chat = next(service for service in platforms.find("whatsapp").service if service.id == "chat")
    assert chat.rule == "any_of"
    assert {urlsplit(endpoint.url).port for endpoint in chat.endpoint} == {443, 5222}


def test_signal_brings_its_own_root() -> None:
    (root,) = load_pem_x509_certificates((platforms.find("signal").roots or "").encode())
    root.verify_directly_issued_by(root)
    assert "Signal Messenger" in root.subject.rfc4514_string()
    assert root.not_valid_after_utc > datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)


def test_no_private_root_is_trusted_where_it_is_not_needed() -> None:
    assert [platform.id for platform in BUILT_IN if platform.roots] == ["signal"]


# ── a user's own ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _load(folder: Path, text: str) -> Platform:
    file = folder / "mine.toml"
    file.write_text(text)
    (folder / "notes.txt").write_text("no certificate")
    return platforms.load(file)


def test_a_platform_can_be_written_as_it_is_read(tmp_path: Path) -> None:
    for platform in (*BUILT_IN, platforms.load(platforms.configs() / "lab" / "bystander.toml")):
        bare = msgspec.structs.replace(platform, roots=None)
        assert _load(tmp_path, platforms.text_of(bare)) == bare


def test_a_users_own_platform(tmp_path: Path) -> None:
    root = trustme.CA().cert_pem.bytes()
    (tmp_path / "roots.pem").write_bytes(root)
    platform = _load(tmp_path, 'roots = "roots.pem"\nspeed = "https://mine.example/large"\n' + GOOD)
    assert platform.id == "mine"
    assert [endpoint.url for endpoint in platform.service[0].endpoint] == [
        "https://mine.example/",
        "tcp://mine.example:5222",
    ]
    assert platform.service[0].rule == "all_of"
    assert platform.roots == root.decode()


BROKEN = {
    "empty": ("", "empty"),
    "not TOML": ("id = ", "not TOML"),
    "unknown key": (GOOD + "sevice = 1\n", "unknown key `sevice` - at `service[0]`"),
    "unknown key in an endpoint": (GOOD.replace('" }', '", metod = "GET" }', 1), "`service[0].endpoint[0]`"),
    "no title": (GOOD.replace('title = "Mine"', ""), "missing key `title`"),
    "no service": ('id = "mine"\ntitle = "Mine"\nservice = []\n', "required"),
    "nothing required": (GOOD + "required = false\n", "required"),
    "id is no slug": (GOOD.replace('"mine"', '"My Platform"'), "id"),
    "id ends in a line feed": (GOOD.replace('"mine"', '"mine\\n"'), "slug"),
    "service's id is no slug": (GOOD.replace('"web"', '"the web"'), "id"),
    "two services of one id": (GOOD + GOOD.partition('Mine"')[2].replace("mine.", "other."), "another service"),
    "no endpoints": (GOOD.partition("endpoint")[0] + "endpoint = []\n", "without endpoints"),
    "one URL twice": (GOOD.replace("tcp://mine.example:5222", "https://mine.example/"), "another endpoint"),
    "no such method": (GOOD.replace('" }', '", method = "PUT" }', 1), "method"),
    "no such status": (GOOD.replace('" }', '", status = [99] }', 1), "status"),
    "no such rule": (GOOD + 'rule = "some_of"\n', "rule"),
    "no such scheme": (GOOD.replace("https:", "ftp:"), "https:// or http:// or quic:// or stun:// or tcp://"),
    "no host": (GOOD.replace("https://mine.example/", "https:///"), "host"),
    "port": (GOOD.replace(":5222", ":70000"), "service[0].endpoint[1].url"),
    "no port": (GOOD.replace(":5222", ""), "port"),
    "STUN with a path": (GOOD.replace("tcp://mine.example:5222", "stun://mine.example/x"), "a host and a port alone"),
    "status of STUN": (GOOD.replace('tcp://mine.example:5222"', 'stun://mine.example", status = [200]'), "stun://"),
    "QUIC by POST": (GOOD.replace('tcp://mine.example:5222"', 'quic://mine.example/", method = "POST"'), "GET or HEAD"),
    "speed and a throttled name": (
        'speed = "https://mine.example/"\nthrottled_name = "v.mine.example"\n' + GOOD,
        "not both",
    ),
    "throttled name is no name": ('throttled_name = "v mine"\n' + GOOD, "throttled_name"),
    "throttled name is an address": ('throttled_name = "192.0.2.1"\n' + GOOD, "an address"),
    "status of a bare connection": (GOOD.replace(':5222" }', ':5222", status = [200] }'), "tcp://"),
    "speed in the clear": ('speed = "http://mine.example/"\n' + GOOD, "speed"),
    "roots are missing": ('roots = "gone.pem"\n' + GOOD, "no such file"),
    "roots lie elsewhere": ('roots = "../roots.pem"\n' + GOOD, "outside"),
    "roots are no certificates": ('roots = "notes.txt"\n' + GOOD, "PEM"),
    "as large as no platform is": (GOOD + "#" * (1 << 16), "larger than 64 KiB"),
    "roots are a config": ('roots = "mine.toml"\n' + GOOD, "a config itself"),
}


@pytest.mark.parametrize(("text", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_platform_is_one_clear_line(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, text)
    said = str(caught.value)
    assert reason in said
    assert said.startswith(str(tmp_path / "mine.toml"))
    assert "\n" not in said


def test_a_platform_that_is_not_there_is_said_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match="twitter"):
        platforms.find("../platforms/twitter")


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(["web", "https://a.example/", "GET"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "url", "endpoint", "method", "status", "rule", "x"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(document=st.fixed_dictionaries({"id": VALUES, "title": VALUES, "service": VALUES}, optional={"speed": VALUES}))
def test_only_a_config_error_leaves_the_reader(document: dict[str, Any]) -> None:
    said = ""
    try:
        platforms._check(platforms.syntax.shaped(document, Platform, "x"), "x")
    except ConfigError as fault:
        said = str(fault)
    assert "\n" not in said


# ── where the data is ────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_data_of_a_checkout_is_found_from_any_folder(tmp_path: Path) -> None:
    assert (platforms.configs() / "platforms" / "signal-roots.pem").is_file()
    assert platforms.configs().is_absolute()


def test_the_data_is_found_inside_an_installed_package(tmp_path: Path) -> None:
    """As in a wheel: the data lies within the package, and the package may be anywhere."""
    package = Path(platforms.__file__).parent.parent
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w") as wheel:
        for file in package.rglob("*.py"):
            wheel.write(file, Path("vpntest") / file.relative_to(package))
        for file in (platforms.configs() / "platforms").iterdir():
            wheel.write(file, Path("vpntest/configs/platforms") / file.name)
    with zipfile.ZipFile(archive) as wheel:
        wheel.extractall(tmp_path / "site")
    code = "from vpntest.plan import platforms; print(platforms.configs(), *(p.id for p in platforms.built_in()))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "site", capture_output=True, text=True, check=True, timeout=60
    )
    folder, *found = done.stdout.split()
    assert folder == str(tmp_path / "site" / "vpntest" / "configs")
    assert set(found) == EXPECTED
