"""The proxies whose forwarding headers are believed."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeAlias

from socketguard.check import listed
from socketguard.errors import ConfigurationError

__all__ = ["TrustedProxies"]

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

# RFC 1918, RFC 6598 (carrier-grade NAT, also used by clouds), RFC 4193, link-local and loopback addresses.
_PRIVATE_BLOCKS = (
    *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16", "127.0.0.0/8"),
    *("fc00::/7", "fe80::/10", "::1/128"),
)
UNIX = "unix"
"""Among the trusted proxies: the peer of a Unix socket."""

MOST_HOPS = 32
"""Proxies on one way, at most: each costs some microseconds, and a client can write thousands of them."""

_PRIVATE = tuple(map(ipaddress.ip_network, _PRIVATE_BLOCKS))


@dataclass(frozen=True, init=False)
class TrustedProxies:
    """The addresses and CIDR blocks of the proxies whose ``X-Forwarded-For`` is believed."""

    networks: tuple[_Network, ...]
    unix: bool
    """Whether the peer of a Unix socket is one: whoever may open the socket."""

    def __init__(self, networks: Collection[str] = ()) -> None:
        given = listed(networks, "trusted_proxies", example="['10.0.0.0/8']")
        object.__setattr__(self, "networks", tuple(_network(one) for one in given if one != UNIX))
        object.__setattr__(self, "unix", UNIX in given)

    def describe(self) -> list[str]:
        """The option in plain values."""
        return [*map(str, self.networks), *([UNIX] if self.unix else [])]

    def client(self, peer: str | None, forwarded_for: str | None, *, unix: bool = False) -> str | None:
        """The client's address, read from the right: the first hop that isn't a trusted proxy.

        ``peer``, the address of the TCP connection, is the answer when it isn't trusted: anybody can send the header.
        ``unix`` says that the server listens on a Unix socket, whose peer has no address.
        """
        if forwarded_for is None or not (self._trusts(peer) or (unix and self.unix)):
            return peer
        client = peer
        # What is beyond stays in one piece, and is not looked at.
        for hop in reversed(forwarded_for.rsplit(",", MOST_HOPS)[-MOST_HOPS:]):
            address = _address(hop)
            if address is None:
                break
            client = str(address)
            if not _is_in(address, self.networks):
                break
        return client

    def stranger(self, peer: str | None, forwarded_for: str | None) -> str | None:
        """A peer that sends forwarding headers, when it is a private address that isn't trusted.

        Not so when it stands in ``X-Forwarded-For`` itself: then the ASGI server has taken it from there (uvicorn's
        ``proxy_headers``), and it is the client.
        """
        address = _address(peer or "")
        if not address or not _is_in(address, _PRIVATE) or _is_in(address, self.networks):
            return None
        hops = (forwarded_for or "").rsplit(",", MOST_HOPS)[-MOST_HOPS:]
        return None if address in map(_address, hops) else peer

    def _trusts(self, peer: str | None) -> bool:
        if not self.networks:
            return False
        address = _address(peer or "")
        return address is not None and _is_in(address, self.networks)


def _network(text: object) -> _Network:
    try:
        if not isinstance(text, str):
            raise ValueError("not a string")
        network = ipaddress.ip_network(text.strip())
    except ValueError as exc:
        raise ConfigurationError(
            f"trusted_proxies: {text!r} is no address and no CIDR block ({exc}); write for example '10.0.0.0/8', or "
            "'unix' for a proxy in front of a Unix socket",
            option="trusted_proxies",
        ) from None
    if network.prefixlen < (8 if network.version == 4 else 16) and not network.is_private:
        raise ConfigurationError(
            f"trusted_proxies: {text!r} is a large part of the internet, where anybody could say that a request comes "
            "from any address; write the addresses of your own proxies, for example '10.0.0.0/8'",
            option="trusted_proxies",
        )
    return network


def _address(text: str) -> _Address | None:
    """An address as proxies write it: bare, ``1.2.3.4:567``, ``[::1]`` or ``[::1]:567``."""
    text = text.strip()[:64]
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_in(address: _Address, networks: tuple[_Network, ...]) -> bool:
    return any(address in network for network in networks)
