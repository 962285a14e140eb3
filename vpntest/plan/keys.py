"""WireGuard's keys: made, derived and checked.

python-wireguard makes and derives them. Its decoder turns bad base64 into the all-zero key without an error, so
nothing reaches it unchecked; its device calls are never used, because without the kernel's module they end the process.
Its package names any processor but holds x86-64 code: where that does not load, X25519 of `cryptography` serves.
"""

from __future__ import annotations

import base64
import binascii
import re
from functools import cache
from types import ModuleType

from vpntest.plan.secret import Secret

KEY_BYTES = 32
"""Length of every WireGuard key: private, public and preshared."""
NO_KEY = "A" * 43 + "="
"""Base64 of 32 zero bytes: as a preshared key it means none."""


def generate() -> tuple[Secret, str]:
    """A fresh key pair: the private key, and the public one in base64."""
    library = _python_wireguard()
    if library is None:
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        private = Secret(base64.b64encode(X25519PrivateKey.generate().private_bytes_raw()).decode())
        return private, public_of(private)
    private_key, public_key = library.Key.key_pair()
    return Secret(check_key(str(private_key))), check_key(str(public_key))


def public_of(private: Secret) -> str:
    """The public key of a private one, in base64. Raises ValueError where the private key is none."""
    checked = check_key(private.reveal())
    library = _python_wireguard()
    if library is None:
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        key = X25519PrivateKey.from_private_bytes(base64.b64decode(checked))
        return base64.b64encode(key.public_key().public_bytes_raw()).decode()
    public = library.Key()
    # The package has no call for this; its own `key_pair` goes through the same function of its C library.
    library.wireguard.c_library.generate_public_key(library.Key(checked).as_bytes(), public.as_bytes())
    return check_key(str(public))


def check_key(text: str) -> str:
    """The key as given, if it is one: canonical base64 of 32 bytes that are not all zero.

    Raises ValueError with a reason that does not quote the key.
    """
    if len(text) != 44:
        raise ValueError(f"a key has 44 characters, this one has {len(text)}")
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("the key is not base64") from None
    # Base64 leaves spare bits in the last character: two spellings of one key would pass for two keys.
    if len(raw) != KEY_BYTES or base64.b64encode(raw).decode() != text:
        raise ValueError("the key is not base64 of 32 bytes")
    if not any(raw):
        raise ValueError("the key is all zeros")
    return text


def read_key(text: str) -> str:
    """The key that a link or a document holds, as canonical base64: they come in base64 of both alphabets, with and
    without padding, and in hexadecimal. Raises ValueError with a reason that does not quote the key.
    """
    text = text.strip().rstrip("=").replace("-", "+").replace("_", "/")
    if re.fullmatch(r"[0-9A-Fa-f]{64}", text):
        return check_key(base64.b64encode(bytes.fromhex(text)).decode())
    if not re.fullmatch(r"[A-Za-z0-9+/]{43}", text):
        raise ValueError("the key is not 32 bytes in base64")
    return check_key(base64.b64encode(base64.b64decode(text + "=")).decode())


@cache
def _python_wireguard() -> ModuleType | None:
    try:
        import python_wireguard
    except (ImportError, OSError):
        return None
    module: ModuleType = python_wireguard
    return module
