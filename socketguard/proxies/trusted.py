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
_PRIVATE = tuple(map(ipaddress.ip_network, _PRIVATE_BLOCKS))


@dataclass(frozen=True, init=False)
class TrustedProxies:
    """The addresses and CIDR blocks of the proxies whose ``X-Forwarded-For`` is believed."""

    networks: tuple[_Network, ...]

    def __init__(self, networks: Collection[str] = ()) -> None:
        given = listed(networks, "trusted_proxies", example="['10.0.0.0/8']")
        object.__setattr__(self, "networks", tuple(map(_network, given)))

    def client(self, peer: str | None, forwarded_for: str | None) -> str | None:
        """The client's address, read from the right: the first hop that isn't a trusted proxy.

        ``peer``, the address of the TCP connection, is the answer when it isn't trusted: anybody can send the header.
        """
        if not self.networks or forwarded_for is None or not self._trusts(peer):
            return peer
        client = peer
        for hop in reversed(forwarded_for.split(",")):
            address = _address(hop)
            if address is None:
                break
            client = str(address)
            if not _is_in(address, self.networks):
                break
        return client

    def stranger(self, peer: str | None) -> str | None:
        """A peer that sends forwarding headers, when it is a private address that isn't trusted."""
        address = _address(peer or "")
        return peer if address and _is_in(address, _PRIVATE) and not _is_in(address, self.networks) else None

    def _trusts(self, peer: str | None) -> bool:
        address = _address(peer or "")
        return address is not None and _is_in(address, self.networks)


def _network(text: object) -> _Network:
    try:
        if not isinstance(text, str):
            raise ValueError("not a string")
        return ipaddress.ip_network(text.strip())
    except ValueError as exc:
        raise ConfigurationError(
            f"trusted_proxies: {text!r} is no address and no CIDR block ({exc}); write for example '10.0.0.0/8'",
            option="trusted_proxies",
        ) from None


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
