"""The memory that bodies of requests may take, and each client's share of it."""

from __future__ import annotations

import ipaddress
from collections import Counter

from coatnet.serving.problems import MEMORY_FULL, ProblemError

BUFFERED_BYTES = 512_000_000
"""Bodies of all requests that are held at once; beyond that another waits no better than with a full queue."""
IPV6_PREFIX = 64
"""Bits of an IPv6 address that tell one client from another: whoever has one address mostly has all that begin so."""


def client_of(address: str) -> str:
    """Whose address this is: itself, or of IPv6 the network that is given to one client."""
    if ":" not in address:
        return address
    return str(ipaddress.ip_network((address.partition("%")[0], IPV6_PREFIX), strict=False))


class HeldBodies:
    """What is held, by client. A client may hold as much as it leaves to all others, so that none of them can fill the
    memory: one alone at most a half, two a third each (dynamic thresholds, Choudhury and Hahne 1998).

    Args:
        capacity: bytes.
    """

    def __init__(self, capacity: int = BUFFERED_BYTES) -> None:
        self._capacity = capacity
        self._held: Counter[str] = Counter()

    def check(self, client: str, num_bytes: int) -> None:
        """See that a client may hold so many bytes more.

        Raises:
            ProblemError: it may not.
        """
        left = self._capacity - self._held.total() - num_bytes
        if self._held[client] + num_bytes > left:
            raise ProblemError(MEMORY_FULL)

    def hold(self, client: str, num_bytes: int) -> None:
        """So many more are held for it, or with a negative number fewer."""
        self._held[client] += num_bytes
        if not self._held[client]:
            del self._held[client]  # or each address ever seen would be kept
