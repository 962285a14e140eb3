"""Reads platforms: the ones that come with vpntest, and the user's own. Both are TOML of the same shape.

`roots` names a PEM file beside the TOML, with the private roots that the platform's own client trusts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from vpntest.errors import ConfigError
from vpntest.plan import files, syntax
from vpntest.plan.model import Endpoint, Platform

MAX_PLATFORM_BYTES = 1 << 16
"""The largest platform file that is read; ours stay under 8 KiB."""
_SLUG = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


def configs() -> Path:
    """The folder of the data that comes with vpntest: `vpntest/configs` where installed, `configs` in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def built_in() -> tuple[Platform, ...]:
    """Every platform that comes with vpntest, by id."""
    return tuple(load(path) for path in sorted((configs() / "platforms").glob("*.toml")))


def find(name: str) -> Platform:
    """The built-in platform of that id. Raises ConfigError where there is none."""
    have = {path.stem: path for path in sorted((configs() / "platforms").glob("*.toml"))}
    if name not in have:
        raise ConfigError(f"there is no built-in platform of that id; there are {', '.join(have)}", where=name)
    return load(have[name])


def load(path: Path) -> Platform:
    """The platform that a file describes. Raises ConfigError, with the path of the key that is at fault."""
    where = syntax.printable(str(path))
    text = syntax.decoded(files.read(path, where, MAX_PLATFORM_BYTES), where)
    platform = syntax.shaped(syntax.toml(text, where), Platform, where)
    _check(platform, where)
    if platform.roots is None:
        return platform
    try:
        roots = certificates(files.inside(path.parent)(platform.roots))
    except OSError as fault:
        raise ConfigError(f"`roots` cannot be read: {(fault.strerror or 'error').lower()}", where=where) from None
    except ValueError as fault:
        raise ConfigError(f"`roots`: {fault}", where=where) from None
    return msgspec.structs.replace(platform, roots=roots)


def text_of(platform: Platform) -> str:
    """A platform file for a platform without roots of its own: what :func:`load` reads."""

    def lines(of: Struct, names: Iterable[str]) -> list[str]:
        # A JSON string is a TOML basic string, a JSON list of them or of numbers a TOML array.
        return [f"{name} = {json.dumps(value)}" for name in names if (value := getattr(of, name)) not in (None, ())]

    text = lines(platform, ("id", "title", "speed", "throttled_name", "source"))
    for service in platform.service:
        text += ["", "[[service]]", *lines(service, ("id", "rule", "required"))]
        for endpoint in service.endpoint:
            text += ["", "[[service.endpoint]]", *lines(endpoint, ("url", "method", "status"))]
    return "\n".join(text) + "\n"


def certificates(pem: bytes) -> str:
    """PEM text of one or more certificates, as given. Raises ValueError where it holds none, or a broken one."""
    from cryptography.x509 import load_pem_x509_certificates

    try:
        load_pem_x509_certificates(pem)
        return pem.decode("ascii")
    except ValueError:
        raise ValueError("not a PEM file of certificates") from None


def is_slug(text: str) -> bool:
    """Whether a text can be a name that stays (:data:`vpntest.plan.model.Slug`)."""
    return _SLUG.fullmatch(text) is not None


def _check(platform: Platform, where: str) -> None:
    """What the types cannot say."""

    def broken(reason: str, key: str) -> ConfigError:
        return ConfigError(f"{reason} - at `{key}`", where=where)

    if not is_slug(platform.id):
        raise broken("not a slug of lower-case letters, digits, `.`, `_` and `-`", "id")
    if not any(service.required for service in platform.service):
        raise broken("no service is required, so nothing would decide the platform's state", "service")
    if platform.speed is not None:
        _url(platform.speed, ("https",), where, "speed")
        if platform.throttled_name is not None:
            raise broken("a platform has `speed` or `throttled_name`, not both", "throttled_name")
    if platform.throttled_name is not None:
        try:
            if syntax.is_address(syntax.host(platform.throttled_name)):
                raise ValueError("an address is no name")
        except ValueError as fault:
            raise broken(str(fault), "throttled_name") from None
    services: set[str] = set()
    urls: set[str] = set()
    for number, service in enumerate(platform.service):
        key = f"service[{number}]"
        if not is_slug(service.id) or service.id in services:
            raise broken("not a slug, or the id of another service too", f"{key}.id")
        services.add(service.id)
        if not service.endpoint:
            raise broken("a service without endpoints", f"{key}.endpoint")
        for count, endpoint in enumerate(service.endpoint):
            _endpoint(endpoint, where, f"{key}.endpoint[{count}]")
            if endpoint.url in urls:
                raise broken("the URL of another endpoint too", f"{key}.endpoint[{count}].url")
            urls.add(endpoint.url)


def _endpoint(endpoint: Endpoint, where: str, key: str) -> None:
    _url(endpoint.url, ("https", "http", "quic", "stun", "tcp"), where, f"{key}.url")
    if any(not 100 <= status <= 599 for status in endpoint.status):
        raise ConfigError(f"not an HTTP status - at `{key}.status`", where=where)
    parts = urlsplit(endpoint.url)
    if parts.scheme in ("tcp", "stun") and (endpoint.status or endpoint.method != "GET"):
        raise ConfigError(f"a {parts.scheme}:// endpoint has no method and no status - at `{key}`", where=where)
    if parts.scheme == "stun" and (parts.path or parts.query or parts.fragment):
        raise ConfigError(f"a stun:// endpoint is a host and a port alone - at `{key}.url`", where=where)
    if parts.scheme == "quic" and endpoint.method == "POST":
        raise ConfigError(f"a quic:// endpoint is asked by GET or HEAD - at `{key}.method`", where=where)


def _url(text: str, schemes: tuple[str, ...], where: str, key: str) -> None:
    try:
        syntax.url(text, schemes)
    except ValueError as fault:
        raise ConfigError(f"{fault} - at `{key}`", where=where) from None
