"""Our own DNS client: asks one resolver over sockets of one vantage, and listens on for a second, different answer.

Never getaddrinfo: its helpers (nss-resolve, nscd) are reached by path sockets and answer from the host's namespace.
Questions carry no EDNS, as those of glibc's stub resolver carry none.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from vpntest.failures import Failure, failure_of

if TYPE_CHECKING:
    from dns.message import Message

PORT = 53
_RCODES = {
    "NXDOMAIN": Failure.DNS_NXDOMAIN,
    "REFUSED": Failure.DNS_REFUSED,
    "SERVFAIL": Failure.DNS_SERVFAIL,
}


class Resolution(Struct, frozen=True):
    """What a resolver said to one question."""

    rcode: str | None
    """`NOERROR`, `NXDOMAIN` …; None where no valid answer came."""
    answers: tuple[str, ...] = ()
    """Addresses of the asked type, in the order of the first answer."""
    late: tuple[tuple[str, ...], ...] = ()
    """Answers to the same question that came after the first and differ from it; an empty one holds no address."""
    failure: str | None = None
    """A word of :mod:`vpntest.failures`; None where there is an address."""
    engine: Literal["udp", "tcp"] = "udp"
    """What brought the answer."""


async def ask(
    open_socket: Callable[[socket.AddressFamily, socket.SocketKind], socket.socket],
    resolver: str,
    name: str,
    query_type: Literal["A", "AAAA"],
    *,
    timeout: float = 4.0,
    linger: float = 0.0,
    heard: Callable[[Resolution], None] | None = None,
    or_tcp: bool = False,
) -> Resolution:
    """Asks `resolver` (an address) for the addresses of `name`.

    UDP first, the question sent again after half of the time, TCP where the answer is truncated; `timeout` seconds for
    all of it. `or_tcp`: UDP has half of them, and where it stays silent TCP the rest. An answer counts if it comes from
    the resolver's address and port with our id and our question. For `linger` seconds after the first answer the socket
    stays open, so that a forger's race with the truth shows. `heard` is called with what is known by then at the first
    answer and at each that comes after it: for who does not wait for the last. Network failures are in the result;
    never raises for them.
    """
    import dns.exception
    import dns.message

    try:
        query = dns.message.make_query(name, query_type, use_edns=False)
        wire = query.to_wire()
    except dns.exception.DNSException as exc:
        return Resolution(None, failure=failure_of(exc))
    deadline = asyncio.get_running_loop().time() + timeout

    def known(messages: list[Message], engine: Literal["udp", "tcp"]) -> Resolution:
        found = _resolution([_content(message, query_type) for message in messages], engine)
        if heard is not None:
            heard(found)
        return found

    try:
        patience = deadline - timeout / 2 if or_tcp else deadline
        try:
            return known(
                await _over_udp(
                    open_socket, resolver, query, wire, patience, linger, lambda messages: known(messages, "udp")
                ),
                "udp",
            )
        except _Truncated:
            return known([await _over_tcp(open_socket, resolver, query, wire, deadline)], "tcp")
        except (_Unanswered, OSError) as silence:
            if not or_tcp or getattr(silence, "failure", Failure.TIMEOUT) != Failure.TIMEOUT:
                raise
            try:
                return known([await _over_tcp(open_socket, resolver, query, wire, deadline)], "tcp")
            except (_Unanswered, OSError, EOFError):
                # A refusal may be the proxy's own; that nothing came stays the fact.
                raise silence from None
    except _Unanswered as exc:
        return Resolution(None, failure=exc.failure)
    except (OSError, EOFError) as exc:
        return Resolution(None, failure=failure_of(exc))


class _Unanswered(Exception):
    def __init__(self, failure: str) -> None:
        super().__init__(failure)
        self.failure = failure


class _Truncated(Exception):
    """The first answer does not fit into a datagram."""


def _resolution(contents: list[tuple[str, tuple[str, ...]]], engine: Literal["udp", "tcp"]) -> Resolution:
    rcode, answers = contents[0]
    late = tuple(dict.fromkeys(content[1] for content in contents[1:] if _differs(content, contents[0])))
    if rcode != "NOERROR":
        return Resolution(rcode, answers, late, _RCODES.get(rcode, Failure.DNS_MISBEHAVING), engine)
    return Resolution(rcode, answers, late, None if answers else Failure.DNS_NO_ANSWER, engine)


def _content(message: Message, query_type: str) -> tuple[str, tuple[str, ...]]:
    import dns.rcode
    import dns.rdatatype

    kind = dns.rdatatype.from_text(query_type)
    addresses = tuple(str(record) for rrset in message.answer if rrset.rdtype == kind for record in rrset)
    return dns.rcode.to_text(message.rcode()), addresses


def _differs(one: tuple[str, tuple[str, ...]], other: tuple[str, tuple[str, ...]]) -> bool:
    # Resolvers rotate the records of a set: order is no difference.
    return one[0] != other[0] or set(one[1]) != set(other[1])


def _parse(datagram: bytes, query: Message) -> Message | str:
    import dns.exception
    import dns.message

    try:
        # A truncated answer is read as far as it goes; TCP brings the rest.
        message = dns.message.from_wire(datagram, ignore_trailing=True, raise_on_truncation=False)
    except (dns.exception.DNSException, ValueError):
        return Failure.DNS_MISBEHAVING
    if message.id != query.id:
        return Failure.DNS_WRONG_ID
    return message if query.is_response(message) else Failure.DNS_MISBEHAVING


def _open(
    open_socket: Callable[[socket.AddressFamily, socket.SocketKind], socket.socket],
    resolver: str,
    kind: socket.SocketKind,
) -> socket.socket:
    family = socket.AF_INET6 if ":" in resolver else socket.AF_INET
    ipaddress.ip_address(resolver)
    made = open_socket(family, kind)
    try:
        made.setblocking(False)
        # A literal address, scope included, is taken without any look-up. Connected, so that the kernel drops what
        # others send and gives us ICMP errors.
        made.connect((resolver, PORT))
    except BlockingIOError:
        pass
    except BaseException:
        made.close()
        raise
    return made


async def _over_udp(
    open_socket: Callable[[socket.AddressFamily, socket.SocketKind], socket.socket],
    resolver: str,
    query: Message,
    wire: bytes,
    deadline: float,
    linger: float,
    heard: Callable[[list[Message]], object],
) -> list[Message]:
    """All answers, the first one first; `heard` gets them as they come, but for the last state, which is returned."""
    import dns.flags

    loop = asyncio.get_running_loop()
    received: list[Message] = []
    unfit: str | None = None
    with _open(open_socket, resolver, socket.SOCK_DGRAM) as sock:
        start = loop.time()
        for until in (start + (deadline - start) / 2, deadline):
            refused: OSError | None = None
            try:
                await loop.sock_sendall(sock, wire)
                async with asyncio.timeout_at(until):
                    while not received:
                        message = _parse(await loop.sock_recv(sock, 65535), query)
                        if isinstance(message, str):
                            unfit = message
                        else:
                            received.append(message)
            except TimeoutError:
                continue
            except OSError as exc:
                # An ICMP error is easily forged: it counts only if the second question meets it too.
                refused = exc
                continue
            break
        if not received:
            if refused is not None:
                raise refused
            raise _Unanswered(unfit or Failure.TIMEOUT)
        if received[0].flags & dns.flags.TC:
            raise _Truncated
        if linger > 0:
            with contextlib.suppress(OSError):
                async with asyncio.timeout(linger):
                    while True:
                        heard(received)
                        message = _parse(await loop.sock_recv(sock, 65535), query)
                        if not isinstance(message, str):
                            received.append(message)
    return received


async def _over_tcp(
    open_socket: Callable[[socket.AddressFamily, socket.SocketKind], socket.socket],
    resolver: str,
    query: Message,
    wire: bytes,
    deadline: float,
) -> Message:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout_at(deadline):
        with _open(open_socket, resolver, socket.SOCK_STREAM) as sock:
            await loop.sock_sendall(sock, len(wire).to_bytes(2) + wire)

            async def exactly(count: int) -> bytes:
                data = b""
                while len(data) < count:
                    more = await loop.sock_recv(sock, count - len(data))
                    if not more:
                        raise EOFError
                    data += more
                return data

            message = _parse(await exactly(int.from_bytes(await exactly(2))), query)
    if isinstance(message, str):
        raise _Unanswered(message)
    return message
