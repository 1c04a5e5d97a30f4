"""Real proxies in front of a real server: every transport, the origin of a page, the address of a client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from socketguard.testing import mint
from tests.e2e.deployments import Deployments
from tests.e2e.support import (
    ACCEPTED,
    HANDSHAKE_REJECTED,
    REJECTED,
    TRANSPORTS,
    JavaScript,
    Server,
    joining,
    new_address,
    seen,
    wire,
)

TOKEN = mint("u-1", tenant_id="acme")
PROXIES = ["nginx", "haproxy", "caddy", "apache"]
TRAEFIK = "nginx: as Traefik with TLS"
WANTED = [
    *((proxy, "guarded") for proxy in [*PROXIES, TRAEFIK, "nginx: no Upgrade"]),
    ("nginx", "guarded, no proxy trusted"),
    (TRAEFIK, "guarded, proxy headers"),
    ("direct", "guarded, TLS"),
]
over_each_transport = pytest.mark.parametrize("transports", TRANSPORTS)


@pytest.fixture(scope="module")
def deployments(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployments]:
    with Deployments.stand(lambda: tmp_path_factory.mktemp("proxies"), WANTED) as found:
        yield found


@pytest.fixture(params=PROXIES)
def proxied(request: pytest.FixtureRequest, deployments: Deployments) -> tuple[Server, str]:
    """A server, and where it is behind a proxy."""
    return deployments.server("guarded"), deployments.url(request.param, "guarded")


def ask(js: JavaScript, url: str, origin: str, transports: str, **options: Any) -> tuple[str, dict[str, Any]]:
    """What a page of this origin hears, and the name under which the log knows it."""
    agent = f"page/{new_address()}"
    headers = {"Origin": origin, "User-Agent": agent, **options.pop("headers", {})}
    options |= {"transports": transports, "headers": headers, "token": TOKEN, "rejectUnauthorized": False}
    return agent, js.play(url, **options)


@over_each_transport
def test_a_page_of_the_same_origin(js: JavaScript, proxied: tuple[Server, str], transports: str) -> None:
    server, url = proxied
    steps = [*joining(transports), {"call": ["message:save", "hello"]}, {"transport": True}]
    agent, result = ask(js, url, url, transports, steps=steps)
    assert result["steps"][-2:] == ["hello", "polling" if transports == "polling" else "websocket"]
    assert not seen(result, "upgradeError")
    line = server.wait_for_event(ACCEPTED, user_agent=agent)
    assert (line["origin"], line["client_address"]) == (url, "127.0.0.1")


@over_each_transport
def test_a_page_of_another_origin(js: JavaScript, proxied: tuple[Server, str], transports: str) -> None:
    server, url = proxied
    address = {"X-Forwarded-For": new_address()}
    agent, result = ask(js, url, "https://evil.example", transports, headers=address)
    [error] = result["steps"]
    assert error["kind"] == "connect_error"
    line = server.wait_for_event(HANDSHAKE_REJECTED, user_agent=agent)
    assert (line["reason"], line["status"]) == ("origin_not_allowed", 403)
    assert "allowed_origins=['https://evil.example']" in line["hint"]
    if transports != "websocket":
        assert error["description"] == 403
        told = {"code": "origin_not_allowed", "message": "Origin not allowed", "retry": "never", "ref": line["ref"]}
        assert json.loads(error["body"]) == told


async def test_the_address_of_the_client(proxied: tuple[Server, str]) -> None:
    # The client is on 127.0.0.9, which nobody trusts, and pretends to be somebody else.
    server, url = proxied
    agent = f"address/{new_address()}"
    pretended = {"X-Forwarded-For": "203.0.113.7"}
    async with wire(url, additional_headers=pretended, user_agent_header=agent, local_addr=("127.0.0.9", 0)) as session:
        await session.join(TOKEN)
    assert (await server.event(ACCEPTED, user_agent=agent))["client_address"] == "127.0.0.9"


async def test_the_address_where_no_proxy_is_trusted(deployments: Deployments) -> None:
    url = deployments.url("nginx", "guarded, no proxy trusted")
    pretended = {"X-Forwarded-For": "203.0.113.7"}
    async with wire(url, additional_headers=pretended, local_addr=("127.0.0.9", 0)) as session:
        await session.send("40/messages,")
        assert (await session.frame()).startswith("44/messages,")
    line = await deployments.server("guarded, no proxy trusted").event(REJECTED)
    assert line["client_address"] == "127.0.0.1"


@over_each_transport
def test_uvicorns_own_proxy_headers(js: JavaScript, deployments: Deployments, transports: str) -> None:
    # uvicorn's default: it puts the client's address and the scheme into the scope, for peers on 127.0.0.1.
    url = deployments.url(TRAEFIK, "guarded, proxy headers")
    agent, result = ask(js, url, url, transports, headers={"X-Forwarded-For": "203.0.113.7"})
    assert result["steps"][0]["kind"] == "connect"
    # The nearest hop that uvicorn does not trust.
    line = deployments.server("guarded, proxy headers").wait_for_event(ACCEPTED, user_agent=agent)
    assert line["client_address"] == "203.0.113.7"


@pytest.mark.parametrize(("site", "server"), [(TRAEFIK, "guarded"), ("direct", "guarded, TLS")])
@over_each_transport
def test_a_page_with_tls(js: JavaScript, deployments: Deployments, site: str, server: str, transports: str) -> None:
    url = deployments.url(site, server)
    assert url.startswith("https://")
    agent, result = ask(js, url, url, transports, steps=joining(transports))
    assert [step["kind"] for step in result["steps"]] == [step["wait"] for step in joining(transports)]
    assert not deployments.server(server).events(HANDSHAKE_REJECTED, user_agent=agent)
    # The same host without TLS is another origin.
    agent, result = ask(js, url, url.replace("https", "http"), transports, headers={"X-Forwarded-For": new_address()})
    assert result["steps"][0]["kind"] == "connect_error"
    line = deployments.server(server).wait_for_event(HANDSHAKE_REJECTED, user_agent=agent)
    assert line["reason"] == "origin_not_allowed"


def test_a_proxy_that_drops_the_upgrade(js: JavaScript, deployments: Deployments) -> None:
    url = deployments.url("nginx: no Upgrade", "guarded")
    steps = [{"wait": "connect"}, {"wait": ["upgrade", "upgradeError"]}]
    agent, result = ask(js, url, url, "upgrade", headers={"X-Forwarded-For": new_address()}, steps=steps)
    assert result["steps"][1]["kind"] == "upgradeError"
    line = deployments.server("guarded").wait_for_event(HANDSHAKE_REJECTED, user_agent=agent)
    assert (line["reason"], line["status"]) == ("upgrade_missing", 400)
    assert "proxy_set_header Upgrade $http_upgrade" in line["hint"]
