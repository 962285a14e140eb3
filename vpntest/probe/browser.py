"""A TLS handshake with a browser's ClientHello, over a connection of a vantage.

Some censors look at the shape of a ClientHello, not only at the name in it; ours is that of a program. The library that
speaks as a browser does (curl-impersonate) opens sockets by itself, and not in a vantage. So it is given no network: it
connects to a local socket of ours, we carry its bytes over the vantage's connection and back, and what the network does
shows where it always does, with the kernel's own errno.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from vpntest.errors import CannotMeasure
from vpntest.probe.connection import Connection

SHAPE = "chrome150"
"""Whose ClientHello. Its JA4, t13d1516h2_8daaf6152771_806a8c22fdea, is that of Chrome since version 150."""
AT_ONCE = 32
"""Handshakes under way in the whole run: each has a thread, which computes for some milliseconds and then waits, where
it is blocked for 10 s. As many as a dozen blocked endpoints have tries, lest they queue for a quarter of the run."""
_LONGEST = 60
"""Seconds after which the library gives up by itself, should nobody have told it to before."""
_CHUNK = 64 * 1024


class Browsers:
    """The threads that the library runs in; made when they are first needed."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="browser")

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Waits for a free thread: before the connection is made, lest the wait be charged to the network."""
        async with self._slots:
            yield

    async def handshake(self, connection: Connection, server_name: str) -> None:
        """A handshake on a connection that stands, with no look at the certificate; the last use of that connection.

        Wants a :meth:`slot`. Raises OSError and EOFError as the network makes them, `ssl.SSLError` for what else the
        library finds wrong, CannotMeasure where it is too old. What was sent is the connection's `first_flight`.
        """
        loop = asyncio.get_running_loop()
        name = f"vpntest-{secrets.token_hex(16)}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.setblocking(False)
            # An abstract one: it leaves no file, and nobody in another network namespace can see it.
            listener.bind(f"\0{name}")
            listener.listen(1)
            browsing: asyncio.Future[_Fault | None] = loop.run_in_executor(self._threads, _browse, name, server_name)
            carrying = asyncio.create_task(_carry(listener, connection))
            try:
                await asyncio.wait((browsing, carrying), return_when=asyncio.FIRST_COMPLETED)
                if not browsing.done():
                    # Hung up, and about to say why.
                    await asyncio.wait((browsing,))
            finally:
                # Takes the library's socket away, which ends it.
                carrying.cancel()
                listener.close()
                await asyncio.gather(carrying, return_exceptions=True)
                with contextlib.suppress(Exception):
                    await asyncio.shield(browsing)
        fault = browsing.result()
        if fault is None:
            return
        if fault.is_of_the_stream:
            raise connection.broken or EOFError("the stream ended within the handshake")
        raise fault


class _Fault(ssl.SSLError):
    """What the library says."""

    def __init__(self, text: str) -> None:
        super().__init__(1, text)
        # The words for alerts are BoringSSL's, and those are OpenSSL's.
        self.reason = text.upper()

    @property
    def is_of_the_stream(self) -> bool:
        """Whether the stream ended, and not by what the far side said in it."""
        return "SSL ROUTINES" not in self.reason


def _browse(path: str, server_name: str) -> _Fault | None:
    """In a thread: the library's handshake, through a local socket and nothing else. Gives what went wrong."""
    from curl_cffi import Curl, CurlError, CurlOpt

    curl = Curl()
    try:
        if curl.impersonate(SHAPE, default_headers=False) != 0:
            raise CannotMeasure(f"curl_cffi does not know {SHAPE}; install the version that vpntest asks for")
        for option, value in (
            (CurlOpt.URL, f"https://{server_name}/".encode()),
            (CurlOpt.ABSTRACT_UNIX_SOCKET, path.encode()),
            # Whatever the environment says.
            (CurlOpt.PROXY, b""),
            (CurlOpt.CONNECT_ONLY, 1),
            (CurlOpt.SSL_VERIFYPEER, 0),
            (CurlOpt.SSL_VERIFYHOST, 0),
            (CurlOpt.NOSIGNAL, 1),
            (CurlOpt.TIMEOUT, _LONGEST),
        ):
            curl.setopt(option, value)
        curl.perform()
    except CurlError as exc:
        return _Fault(str(exc))
    finally:
        curl.close()
    return None


async def _carry(listener: socket.socket, connection: Connection) -> None:
    """Bytes both ways, until the library hangs up."""
    loop = asyncio.get_running_loop()
    with await _accepted(listener) as near:
        came = False

        async def out() -> None:
            while data := await loop.sock_recv(near, _CHUNK):
                if not came:
                    connection.first_flight += data
                await connection.write(data)

        async def back() -> None:
            nonlocal came
            try:
                while data := await connection.read(_CHUNK):
                    came = True
                    await loop.sock_sendall(near, data)
            finally:
                # No close: that would take away what the library has still to read.
                with contextlib.suppress(OSError):
                    near.shutdown(socket.SHUT_WR)

        ways = asyncio.create_task(out()), asyncio.create_task(back())
        try:
            # The library hangs up when it is done, and when the far side is.
            await asyncio.wait(ways[:1])
        finally:
            for way in ways:
                way.cancel()
            # The connection keeps the network's errors; those of the local socket mean that the library is done.
            await asyncio.gather(*ways, return_exceptions=True)


async def _accepted(listener: socket.socket) -> socket.socket:
    """The library's end of it, and nobody else's."""
    loop = asyncio.get_running_loop()
    while True:
        near, _ = await loop.sock_accept(listener)
        pid, _, _ = struct.unpack("3i", near.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if pid == os.getpid():
            near.setblocking(False)
            return near
        near.close()
