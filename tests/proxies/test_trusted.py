from __future__ import annotations

import ipaddress
import sys
from typing import Any

import pytest

from socketguard.errors import ConfigurationError
from socketguard.proxies.trusted import TrustedProxies


@pytest.mark.parametrize(
    ("networks", "peer", "forwarded", "expected"),
    [
        ([], "10.0.0.1", "1.2.3.4", "10.0.0.1"),
        (["10.0.0.0/8"], "192.0.2.1", "1.2.3.4", "192.0.2.1"),
        (["10.0.0.0/8"], "10.0.0.1", None, "10.0.0.1"),
        (["10.0.0.0/8"], None, "1.2.3.4", None),
        (["10.0.0.0/8"], "unix:", "1.2.3.4", "unix:"),
        (["10.0.0.0/8"], "10.0.0.1", "1.2.3.4", "1.2.3.4"),
        (["10.0.0.0/8"], "10.0.0.1", "6.6.6.6, 1.2.3.4, 10.0.0.2", "1.2.3.4"),
        (["10.0.0.0/8"], "10.0.0.1", "10.0.0.3,10.0.0.2", "10.0.0.3"),
        (["10.0.0.0/8"], "10.0.0.1", "1.2.3.4, unknown, 10.0.0.2", "10.0.0.2"),
        (["10.0.0.0/8"], "10.0.0.1", "", "10.0.0.1"),
        (["10.0.0.0/8"], "10.0.0.1", "1.2.3.4:567", "1.2.3.4"),
        (["10.0.0.0/8"], "10.0.0.1", "[2001:db8::1]:567", "2001:db8::1"),
        (["10.0.0.0/8"], "10.0.0.1", "2001:db8::1", "2001:db8::1"),
        (["10.0.0.0/8"], "::ffff:10.0.0.1", "::ffff:1.2.3.4", "1.2.3.4"),
        (["::1"], "::1", "1.2.3.4", "1.2.3.4"),
        (["10.0.0.1"], "10.0.0.1", "x" * 500, "10.0.0.1"),
        ([" 10.0.0.1 "], "10.0.0.1", "1.2.3.4", "1.2.3.4"),
        (["10.0.0.0/8"], "::ffff:10.0.0.1", "192.0.2.7", "192.0.2.7"),
        (["10.0.0.0/8"], "10.0.0.1", f"6.6.6.6,{'10.0.0.2,' * 30}10.0.0.3", "6.6.6.6"),
        (["10.0.0.0/8"], "10.0.0.1", f"6.6.6.6,{'10.0.0.2,' * 31}10.0.0.3", "10.0.0.2"),
        (["unix"], "192.0.2.1", "1.2.3.4", "192.0.2.1"),
        (["unix"], None, "1.2.3.4", None),
    ],
)
def test_the_client_behind_trusted_proxies(
    networks: list[str], peer: str | None, forwarded: str | None, expected: str | None
) -> None:
    assert TrustedProxies(networks).client(peer, forwarded) == expected


@pytest.mark.parametrize(
    ("forwarded", "expected"),
    [("1.2.3.4", "1.2.3.4"), ("1.2.3.4, 10.0.0.1", "1.2.3.4"), ("x", None), ("", None), (None, None)],
)
def test_the_client_behind_a_proxy_at_a_unix_socket(forwarded: str | None, expected: str | None) -> None:
    trusted = TrustedProxies(["unix", "10.0.0.0/8"])
    assert trusted.client(None, forwarded, unix=True) == expected
    assert trusted.client(None, forwarded) is None
    assert TrustedProxies(["10.0.0.0/8"]).client(None, forwarded, unix=True) is None
    assert trusted.describe() == ["10.0.0.0/8", "unix"]


@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0", "128.0.0.0/1", "64.0.0.0/7", "2000::/3", "8000::/15"])
def test_a_large_part_of_the_internet_is_no_proxy(network: str) -> None:
    with pytest.raises(ConfigurationError, match="is a large part of the internet") as found:
        TrustedProxies(["10.0.0.0/8", network])
    assert found.value.option == "trusted_proxies"


def test_large_private_networks_are_proxies() -> None:
    assert len(TrustedProxies(["10.0.0.0/8", "fc00::/7", "104.16.0.0/13", "2400:cb00::/32"]).networks) == 4


def test_thousands_of_hops_cost_as_much_as_a_few() -> None:
    trusted, few, many = TrustedProxies(["10.0.0.0/8"]), ",10.0.0.1" * 32, ",10.0.0.1" * 7000

    def work(forwarded: str) -> int:
        calls = 0

        def count(frame: Any, event: str, argument: Any) -> None:
            nonlocal calls
            calls += 1

        sys.setprofile(count)
        trusted.client("10.0.0.1", forwarded)
        sys.setprofile(None)
        return calls

    assert work(many) == work(few)


@pytest.mark.parametrize("networks", ["10.0.0.1", ["x"], [5], [None], ["10.0.0.1/8"], ["10.0.0.0/33"]])
def test_networks_that_are_none(networks: Any) -> None:
    with pytest.raises(ConfigurationError) as found:
        TrustedProxies(networks)
    assert found.value.option == "trusted_proxies"


def test_networks_may_be_any_collection() -> None:
    assert TrustedProxies({"10.0.0.0/8": 1}.keys()).networks == (ipaddress.ip_network("10.0.0.0/8"),)


def test_trusted_proxies_are_equal_when_their_networks_are() -> None:
    same, other = TrustedProxies(["10.0.0.0/8"]), TrustedProxies(["10.0.0.0/9"])
    assert {TrustedProxies(["10.0.0.0/8"]), other} == {same, other}
    assert same != other
    assert same != "10.0.0.0/8"


@pytest.mark.parametrize(
    ("peer", "expected"),
    [(None, None), ("192.0.2.1", None), ("10.9.0.1", "10.9.0.1"), ("10.0.0.1", None), ("testclient", None)],
)
def test_a_private_address_that_forwards_is_named(peer: str | None, expected: str | None) -> None:
    trusted = TrustedProxies(["10.0.0.0/16"])
    for forwarded_for in (None, "", "203.0.113.9", "not an address"):
        assert trusted.stranger(peer, forwarded_for) == expected
    # Where it stands in the header itself, the server has taken it from there.
    for forwarded_for in (peer, f"203.0.113.9, {peer}", f"{peer}:4711, 10.0.0.7"):
        assert trusted.stranger(peer, forwarded_for) is None
