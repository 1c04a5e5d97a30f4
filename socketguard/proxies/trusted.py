"""The proxies whose forwarding headers are believed."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Collection

from socketguard.check import listed
from socketguard.errors import ConfigurationError

__all__ = ["TrustedProxies"]


class TrustedProxies:
    """The proxies whose ``X-Forwarded-For`` is believed.

    Args:
        networks: addresses and CIDR blocks, such as ``"10.0.0.0/8"``.

    Raises:
        ConfigurationError: for anything else.
    """

    def __init__(self, networks: Collection[str] = ()) -> None:
        given = listed(networks, "trusted_proxies", example="['10.0.0.0/8']")
        self.networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = tuple(map(self._network, given))

    def __eq__(self, other: object) -> bool:
        return self.networks == other.networks if isinstance(other, TrustedProxies) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.networks)

    @staticmethod
    def _network(text: object) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
        try:
            if not isinstance(text, str):
                raise ValueError("not a string")
            return ipaddress.ip_network(text.strip())
        except ValueError as exc:
            raise ConfigurationError(
                f"trusted_proxies: {text!r} is no address and no CIDR block ({exc}); write for example '10.0.0.0/8'",
                option="trusted_proxies",
            ) from None

    def client(self, peer: str | None, forwarded_for: str | None) -> str | None:
        """The client's address, read from the right: the first hop that isn't a trusted proxy.

        Args:
            peer: the address of the TCP connection.
            forwarded_for: the ``X-Forwarded-For`` header, several of them joined by commas.

        Returns:
            ``peer`` itself when it isn't trusted: anybody can send the header.
        """
        if not self.networks or forwarded_for is None or not self._trusts(peer):
            return peer
        client = peer
        for hop in reversed(forwarded_for.split(",")):
            address = _address(hop)
            if address is None:
                break
            client = str(address)
            if not self._contains(address):
                break
        return client

    def stranger(self, peer: str | None) -> str | None:
        """A peer that sends forwarding headers, when it is a private address that isn't trusted."""
        if peer is None or not _is_private(peer) or (self.networks and self._trusts(peer)):
            return None
        return peer

    def _trusts(self, peer: str | None) -> bool:
        address = _address(peer or "")
        return address is not None and self._contains(address)

    def _contains(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        return any(address in network for network in self.networks)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Parse an address as proxies write it: bare, ``1.2.3.4:567``, ``[::1]`` or ``[::1]:567``."""
    text = text.strip()[:64]
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


# RFC 1918, RFC 6598 (carrier-grade NAT, also used by clouds), RFC 4193, link-local and loopback addresses.
_PRIVATE_BLOCKS = (
    *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16", "127.0.0.0/8"),
    *("fc00::/7", "fe80::/10", "::1/128"),
)


_PRIVATE = tuple(map(ipaddress.ip_network, _PRIVATE_BLOCKS))


@functools.lru_cache(maxsize=64)
def _is_private(text: str) -> bool:
    address = _address(text)
    return address is not None and any(address in network for network in _PRIVATE)
