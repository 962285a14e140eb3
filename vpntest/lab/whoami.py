"""A name server that answers every question for an address with the address of whoever asked it.

    python -m vpntest.lab.whoami ADDRESS

Asked through a resolver, it tells which resolver that was: its A record is the resolver's own address.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import struct
import sys
import threading

import dns.exception
import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset


def answer(query: bytes, asker: str) -> bytes | None:
    """The reply to one query from `asker`, an IPv4 address; None where it is no DNS query.

    A type other than A gets an empty answer. The time to live is 0: a kept answer would name the wrong asker.
    """
    try:
        message = dns.message.from_wire(query)
    except dns.exception.DNSException:
        return None
    if message.flags & dns.flags.QR or not message.question:
        return None
    reply = dns.message.make_response(message)
    reply.flags |= dns.flags.AA
    question = message.question[0]
    if question.rdtype == dns.rdatatype.A:
        reply.answer.append(dns.rrset.from_text(question.name, 0, "IN", "A", asker))
    return reply.to_wire()


class _ByTcp(socketserver.BaseRequestHandler):
    """One connection; each message with its length before it (RFC 1035, 4.2.2)."""

    def handle(self) -> None:
        with contextlib.suppress(OSError, struct.error), self.request.makefile("rb") as incoming:
            while query := incoming.read(*struct.unpack(">H", incoming.read(2))):
                reply = answer(query, self.client_address[0])
                if reply is not None:
                    self.request.sendall(struct.pack(">H", len(reply)) + reply)


class _TcpServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def main() -> None:
    """Serves the address in `argv` on port 53 of UDP and TCP for ever."""
    by_tcp = _TcpServer((sys.argv[1], 53), _ByTcp)
    threading.Thread(target=by_tcp.serve_forever, daemon=True).start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((sys.argv[1], 53))
        while True:
            query, asker = server.recvfrom(4096)
            reply = answer(query, asker[0])
            if reply is not None:
                server.sendto(reply, asker)


if __name__ == "__main__":
    main()
