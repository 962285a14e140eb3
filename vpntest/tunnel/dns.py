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
from vpntest.plan.syntax import is_address

if TYPE_CHECKING:
    from dns.message import Message

PORT = 53
MOST = 16
"""Different answers to one question that are kept; who sends more is a forger, and the rest would say nothing new."""
SENDINGS = 4
"""Times that a question goes out over UDP. On a line that loses 3 % each way two are lost once in 290 times, four once
in 80 000, and a run asks some thousands."""
_RCODES = {
    "NXDOMAIN": Failure.DNS_NXDOMAIN,
    "REFUSED": Failure.DNS_REFUSED,
    "SERVFAIL": Failure.DNS_SERVFAIL,
}


_Content = tuple[str, tuple[str, ...]]
"""Of an answer: its rcode, and the addresses in it."""


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
    """What brought the answer, or was to."""


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
    only_tcp: bool = False,
) -> Resolution:
    """Asks `resolver` (an address) for the addresses of `name`.

    UDP first, the question sent :data:`SENDINGS` times, evenly spaced, TCP where the answer is truncated; `timeout`
    seconds for all of it. `or_tcp`: UDP has half of them, and where it stays silent TCP the rest. `only_tcp`: for a way
    that carries nothing else; one connection brings one answer, so there is nothing to listen on for. An answer counts
    if it comes from the resolver's address and port with our id and our question. For `linger` seconds after the first
    answer the socket stays open, so that a forger's race with the truth shows; until :data:`MOST` have come. `heard` is
    called with what is known by then at the first answer and at each other one that comes after it: for who does not
    wait for the last.
    Network failures are in the result; never raises for them.
    """
    import dns.exception
    import dns.message
    import dns.rdata
    import dns.rdataclass
    import dns.rdatatype

    for each in (dns.rdatatype.A, dns.rdatatype.AAAA):
        # The library keeps the first reader that it finds for a type, and where a record of class ANY comes first that
        # is one that reads nothing, for all answers to come.
        dns.rdata.get_rdata_class(dns.rdataclass.IN, each)  # type: ignore[no-untyped-call]
    try:
        query = dns.message.make_query(name, query_type, use_edns=False)
        wire = query.to_wire()
    except dns.exception.DNSException as exc:
        return Resolution(None, failure=failure_of(exc))
    deadline = asyncio.get_running_loop().time() + timeout

    def known(contents: list[_Content], engine: Literal["udp", "tcp"]) -> Resolution:
        found = _resolution(contents, engine)
        if heard is not None:
            heard(found)
        return found

    async def over_tcp() -> Resolution:
        return known([_content(await _over_tcp(open_socket, resolver, query, wire, deadline), query)], "tcp")

    try:
        if only_tcp:
            return await over_tcp()
        patience = deadline - timeout / 2 if or_tcp else deadline
        try:
            return known(
                await _over_udp(
                    open_socket, resolver, query, wire, patience, linger, lambda contents: known(contents, "udp")
                ),
                "udp",
            )
        except _Truncated:
            return await over_tcp()
        except (_Unanswered, OSError) as silence:
            if not or_tcp or getattr(silence, "failure", Failure.TIMEOUT) != Failure.TIMEOUT:
                raise
            try:
                return await over_tcp()
            except (_Unanswered, OSError, EOFError):
                # A refusal may be the proxy's own; that nothing came stays the fact.
                raise silence from None
    except _Unanswered as exc:
        return Resolution(None, failure=exc.failure, engine="tcp" if only_tcp else "udp")
    except (OSError, EOFError) as exc:
        return Resolution(None, failure=failure_of(exc), engine="tcp" if only_tcp else "udp")


class _Unanswered(Exception):
    def __init__(self, failure: str) -> None:
        super().__init__(failure)
        self.failure = failure


class _Truncated(Exception):
    """The first answer does not fit into a datagram."""


def _resolution(contents: list[_Content], engine: Literal["udp", "tcp"]) -> Resolution:
    rcode, answers = contents[0]
    late = tuple(dict.fromkeys(content[1] for content in contents[1:] if _differs(content, contents[0])))
    if rcode != "NOERROR":
        return Resolution(rcode, answers, late, _RCODES.get(rcode, Failure.DNS_MISBEHAVING), engine)
    return Resolution(rcode, answers, late, None if answers else Failure.DNS_NO_ANSWER, engine)


def _content(message: Message, query: Message) -> _Content:
    import dns.rcode
    import dns.rdataclass

    # Not of the answer's own question: a refusal may come without any.
    kind = query.question[0].rdtype
    # A record of another class holds no address, whatever its type.
    texts = (
        str(record)
        for rrset in message.answer
        if rrset.rdtype == kind and rrset.rdclass == dns.rdataclass.IN
        for record in rrset
    )
    return dns.rcode.to_text(message.rcode()), tuple(filter(is_address, texts))


def _differs(one: _Content, other: _Content) -> bool:
    # Resolvers rotate the records of a set: order is no difference.
    return one[0] != other[0] or set(one[1]) != set(other[1])


def _parse(datagram: bytes, query: Message) -> Message | str:
    import dns.message

    try:
        # A truncated answer is read as far as it goes; TCP brings the rest.
        message = dns.message.from_wire(datagram, ignore_trailing=True, raise_on_truncation=False)
    except Exception:
        # Whatever the library trips over in a stranger's bytes.
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
    heard: Callable[[list[_Content]], object],
) -> list[_Content]:
    """All answers that differ, the first one first; `heard` gets them as they come, but for the last state, which is
    returned."""
    import dns.flags

    loop = asyncio.get_running_loop()
    first: Message | None = None
    unfit: str | None = None
    with _open(open_socket, resolver, socket.SOCK_DGRAM) as sock:
        start = loop.time()
        refused: OSError | None = None
        for number in range(1, SENDINGS + 1):
            until = start + (deadline - start) * number / SENDINGS
            try:
                await loop.sock_sendall(sock, wire)
                async with asyncio.timeout_at(until):
                    while first is None:
                        message = _parse(await _receive(sock, 65535), query)
                        if isinstance(message, str):
                            unfit = message
                        else:
                            first = message
            except TimeoutError:
                refused = None
                continue
            except OSError as exc:
                # An ICMP error is easily forged: it counts only if the next question meets it too.
                if refused is not None:
                    break
                refused = exc
                continue
            break
        if first is None:
            if refused is not None:
                raise refused
            raise _Unanswered(unfit or Failure.TIMEOUT)
        if first.flags & dns.flags.TC:
            raise _Truncated
        contents = [_content(first, query)]
        if linger > 0:
            heard(contents)
            with contextlib.suppress(OSError):
                async with asyncio.timeout(linger):
                    while len(contents) < MOST:
                        message = _parse(await _receive(sock, 65535), query)
                        content = None if isinstance(message, str) else _content(message, query)
                        if content is not None and all(_differs(content, each) for each in contents):
                            contents.append(content)
                            heard(contents)
    return contents


async def _receive(sock: socket.socket, limit: int) -> bytes:
    """While anything waits, the loop's own receive gives nobody else a turn, and no limit can pass: here each does."""
    await asyncio.sleep(0)
    return await asyncio.get_running_loop().sock_recv(sock, limit)


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
                    more = await _receive(sock, count - len(data))
                    if not more:
                        raise EOFError
                    data += more
                return data

            message = _parse(await exactly(int.from_bytes(await exactly(2))), query)
    if isinstance(message, str):
        raise _Unanswered(message)
    return message
