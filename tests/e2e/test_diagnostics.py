"""What the guard's log says of broken deployments: of one request, of many sessions together, of messages to nobody."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest

from socketguard.testing import mint
from tests.e2e.deployments import Deployments
from tests.e2e.support import (
    ACCEPTED,
    CLOSED,
    HANDSHAKE_REJECTED,
    PATIENCE,
    REJECTED,
    SESSION_ENDED,
    Answer,
    Server,
    Wire,
    new_address,
    python_client,
    request,
    until,
    wait_until,
    wire,
)

TOKEN = mint("u-1")
PATTERN, UNDELIVERED = "socketguard.traffic.pattern", "socketguard.emit.undelivered"
UNHANDLED = "socketguard.event.unhandled"
PAGE = "crm.example.com"


@dataclass(frozen=True)
class Case:
    """One request through a deployment that is broken, and what the line in the log says of it."""

    reason: str
    detail: str | None
    site: str
    server: str = "guarded"
    says: tuple[str, ...] = ()
    websocket: bool = False
    page: str | None = None
    """The origin of a page; ``<host>`` is the Host that is asked for."""
    host: str | None = None
    """The Host that is asked for; None for the proxy's own address."""
    query: str = "EIO=4"

    @property
    def name(self) -> str:
        return f"{self.detail or self.reason} | {self.site}"


def lost(detail: str, site: str, *says: str, server: str = "guarded") -> Case:
    return Case("upgrade_missing", detail, site, server, says, websocket=True)


def refused(detail: str, site: str, *says: str, page: str = "http://<host>", host: str = PAGE, **more: Any) -> Case:
    return Case("origin_not_allowed", detail, site, says=says, page=page, host=host, **more)


CASES = [
    lost("upgrade_header_lost", "nginx: no Upgrade", "for nginx: proxy_http_version 1.1; proxy_set_header Upgrade"),
    lost("upgrade_header_lost", "nginx: HTTP/1.0", "HTTP/1.0, the default of nginx", "proxy_http_version 1.1;"),
    lost("connection_header_lost", "nginx: no Connection", "Connection $connection_upgrade"),
    lost("upgrade_header_lost", "haproxy: no Upgrade", "a proxy in front drops it"),
    lost("upgrade_header_lost", "caddy: no Upgrade", "a proxy in front drops it"),
    lost("upgrade_header_lost", "apache: no Upgrade", "; apache: ProxyPass", "upgrade=websocket"),
    lost("server_without_websocket", "direct", "uvicorn[standard]", server="guarded, without WebSocket"),
    refused(
        "host_rewritten",
        "nginx: Host rewritten",
        "proxy_set_header Host $http_host;",
        f"allowed_origins=['http://{PAGE}']",
    ),
    refused("host_rewritten", "haproxy: Host rewritten", "'app.internal'"),
    refused("host_rewritten", "caddy: Host rewritten", "let it keep Host"),
    refused("host_rewritten", "apache: Host rewritten, nothing forwarded", "let it keep Host"),
    refused("port_lost", "nginx: port lost", f"'{PAGE}:8443'", "Host $http_host", host=f"{PAGE}:8443"),
    refused(
        "scheme_lost",
        "nginx: scheme lost",
        "X-Forwarded-Proto $scheme",
        f"allowed_origins=['https://{PAGE}']",
        page="https://<host>",
    ),
    refused("scheme_differs", "nginx: as Traefik with TLS", "as Traefik writes it", websocket=True),
    refused("origin_foreign", "haproxy", "allowed_origins=['https://evil.example']", page="https://evil.example"),
    Case("wrong_path", "prefix_added", "nginx: prefix added", says=("'/api'", "'/socket.io/'")),
    Case("wrong_path", "prefix_added", "apache: prefix added", says=("'/api'", "Mount")),
    Case("wrong_path", "prefix_stripped", "nginx: prefix stripped", says=("no URI after the port in proxy_pass",)),
    Case("wrong_path", "prefix_stripped", "haproxy: prefix stripped", says=("'/socket.io'",)),
    Case("wrong_path", "prefix_stripped", "caddy: prefix stripped", says=("'/socket.io'",)),
    Case("protocol_version", "engineio_3", "nginx: as Engine.IO 3", says=("Socket.IO 2",)),
    Case("protocol_version", "engineio_3", "apache", query="EIO=3", says=("Socket.IO 2",)),
    Case("protocol_version", "engineio_2", "caddy", query="EIO=2", says=("Socket.IO 1",)),
    Case("protocol_version", "engineio_missing", "caddy", query="x=1", says=("health check",)),
]


@pytest.fixture(scope="module")
def deployments(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployments]:
    wanted = [(case.site, case.server) for case in CASES]
    wanted += [("caddy: two replicas", "guarded replica 1"), ("nginx", "guarded, quick"), ("apache", "guarded")]
    wanted += [("nginx: GET only", "guarded, impatient")]
    with Deployments.stand(lambda: tmp_path_factory.mktemp("deployments"), wanted) as found:
        yield found


def ask(url: str, agent: str, query: str = "EIO=4", *, websocket: bool = False, **options: Any) -> Answer:
    """Make a request as a client does."""
    headers = {"User-Agent": agent, "X-Forwarded-For": new_address(), **options.pop("headers", {})}
    if websocket:
        headers |= {"Upgrade": "websocket", "Connection": "Upgrade"}
        headers |= {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    transport = "websocket" if websocket else "polling"
    return request(url, f"/socket.io/?transport={transport}&{query}", headers=headers, **options)


def send(url: str, agent: str, sid: str, packet: str) -> int:
    """Post a packet of a session: the status."""
    return ask(url, agent, f"EIO=4&sid={sid}", method="POST", body=packet).status


def opened(url: str, agent: str) -> str:
    """The id of a new session over polling."""
    answer = ask(url, agent)
    assert answer.status == 200
    return str(json.loads(answer.body[1:])["sid"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_log_names_the_cause(deployments: Deployments, case: Case) -> None:
    agent = case.name
    url = deployments.url(case.site, case.server)
    headers = {} if case.host is None else {"Host": case.host}
    if case.page is not None:
        headers["Origin"] = case.page.replace("<host>", case.host or urlsplit(url).netloc)
    answer = ask(url, agent, case.query, websocket=case.websocket, headers=headers)
    line = deployments.server(case.server).wait_for_event(HANDSHAKE_REJECTED, user_agent=agent)
    assert (line["reason"], line.get("detail")) == (case.reason, case.detail), line
    assert line["status"] == answer.status
    for words in case.says:
        assert words in line["hint"]
    # The client can tell support which line it is.
    assert answer.json["ref"] == line["ref"]


def test_a_session_of_another_replica(deployments: Deployments) -> None:
    url = deployments.url("caddy: two replicas", "guarded replica 1")
    agent = "another replica"
    sid = opened(url, agent)
    # In turn: one of two goes to the other replica.
    assert sorted(send(url, agent, sid, "3") for _ in range(2)) == [200, 400]
    servers = [deployments.server(name) for name in ("guarded replica 1", "guarded replica 2")]
    [line] = wait_until(
        lambda: [line for server in servers for line in server.events(HANDSHAKE_REJECTED, user_agent=agent)], "a line"
    )
    assert line["reason"] == "session_unknown"
    # A process that has just begun may have lost it by a restart, too.
    assert line["detail"] in ("session_elsewhere", "session_before_restart")
    assert "another worker" in line["hint"]
    assert "sticky sessions" in line["hint"]
    assert sid not in json.dumps(line)


def test_a_session_that_has_ended(deployments: Deployments) -> None:
    url = deployments.url("apache", "guarded")
    agent = "ended"
    sid = opened(url, agent)
    assert [send(url, agent, sid, packet) for packet in ("1", "3")] == [200, 400]
    line = deployments.server("guarded").wait_for_event(HANDSHAKE_REJECTED, user_agent=agent)
    assert (line["reason"], line["detail"]) == ("session_unknown", "session_ended")


def test_a_proxy_that_lets_no_post_pass(deployments: Deployments) -> None:
    url = deployments.url("nginx: GET only", "guarded, impatient")
    assert send(url, "no POST", opened(url, "no POST"), "40/messages,") == 403
    line = deployments.server("guarded, impatient").wait_for_event(SESSION_ENDED, user_agent="no POST")
    assert line["reason"] == "connect_timeout"
    assert "did its CONNECT get through" in line["hint"]


# Joining


@pytest.mark.parametrize("namespace", ["/schedulr", "/socket.io/", "/hangs"])
async def test_a_connect_that_is_refused(deployments: Deployments, namespace: str) -> None:
    server = deployments.server("guarded, quick")
    async with wire(deployments.url("nginx", "guarded, quick"), user_agent_header=namespace) as session:
        await session.send(f'40{namespace},{{"token":"{TOKEN}"}}')
        if namespace == "/hangs":
            # From a closed transport stock clients come back by themselves.
            assert await session.end() == ([], (4504, "admission_timeout"))
        else:
            told = json.loads((await session.frame()).removeprefix(f"44{namespace},"))
    line = await server.event(REJECTED, user_agent=namespace)
    if namespace == "/hangs":
        assert (line["reason"], line["detail"]) == ("admission_timeout", "connect_handler")
        return
    assert told == {"message": "Invalid namespace"}
    assert line["message"] == "Invalid namespace"
    if namespace == "/schedulr":
        assert (line["requested"], line["suggestion"]) == ("/schedulr", "/scheduler")
        assert set(line["registered"]) == {"/", "/messages", "/scheduler", "/hangs", "/fails"}
    else:
        assert "path" in line["hint"]


# Messages that reach nobody


async def test_messages_that_reach_nobody(deployments: Deployments) -> None:
    server = deployments.server("guarded, quick")

    async def emit(times: int = 1, **asked: str) -> None:
        query = "&".join(f"{name}={value}" for name, value in asked.items())
        for _ in range(times):
            await asyncio.to_thread(server.post, f"/control/emit?{query}")

    said = server.event
    async with wire(deployments.url("nginx", "guarded, quick")) as found:
        await found.send('42/messages,["message:save","too early"]')
        line = await said(UNHANDLED, reason="event_too_early")
        assert line["namespace"] == "/messages"
        assert "after the client's connect event" in line["hint"]
        for name in ("/scheduler", "/messages"):
            await found.join(TOKEN, name)

        await emit(event="news", namespace="/schedulr")
        line = await said(UNDELIVERED, reason="namespace_unserved")
        assert (line["namespace"], line["suggestion"], line["event_name"]) == ("/schedulr", "/scheduler", "news")

        await emit(event="news", namespace="scheduler")
        assert (await said(UNDELIVERED, reason="namespace_malformed"))["suggestion"] == "/scheduler"

        await emit(event="news", namespace="/scheduler", room="Tenant:ACME")
        line = await said(UNDELIVERED, reason="room_misspelt")
        assert (line["room"], line["suggestion"]) == ("Tenant:ACME", "tenant:acme")

        await emit(3, event="news", namespace="/messages", room="tenant:acme")
        line = await said(UNDELIVERED, reason="room_elsewhere")
        assert (line["namespace"], line["suggestion"], line["members"]) == ("/messages", "/scheduler", 1)

        await found.send('42/messages,["message:sav","text"]')
        line = await said(UNHANDLED, reason="event_unhandled")
        assert (line["event_name"], line["suggestion"]) == ("message:sav", "message:save")

        # What arrives is no matter for the log.
        count = len(server.events(UNDELIVERED)) + len(server.events(UNHANDLED))
        await emit(event="news", namespace="/scheduler", room="tenant:acme")
        assert await found.frame() == '42/scheduler,["news","text"]'
        await found.send('42/messages,7["message:save","text"]')
        assert await found.frame() == '43/messages,7["text"]'
        assert len(server.events(UNDELIVERED)) + len(server.events(UNHANDLED)) == count


# Patterns over time


@pytest.fixture(scope="module")
def traffic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployments]:
    wanted = [
        ("nginx: idle limit of 12 s", "guarded, cut"),
        ("nginx: no Upgrade", "guarded, quick"),
        ("caddy", "guarded, crowded"),
        ("haproxy: spread by chance", "guarded replica 1"),
        ("apache", "guarded"),
    ]
    with Deployments.stand(lambda: tmp_path_factory.mktemp("traffic"), wanted) as found:
        yield found


async def pattern(server: Server, name: str) -> dict[str, Any]:
    """The line with which a pattern begins to stand."""
    return await server.event(PATTERN, pattern=name, stands=True)


async def join(url: str, agent: str, stack: contextlib.AsyncExitStack) -> Wire:
    """A client that has joined and does no more than it must."""
    found = await stack.enter_async_context(wire(url, user_agent_header=agent, ping_interval=None))
    await found.join(TOKEN)
    return found


async def an_idle_limit(deployments: Deployments) -> None:
    server = deployments.server("guarded, cut")
    url = deployments.url("nginx: idle limit of 12 s", "guarded, cut")

    async def until_cut() -> None:
        """Stay quiet until the proxy cuts the connection."""
        async with contextlib.AsyncExitStack() as stack:
            await (await join(url, "quiet", stack)).end()

    cut: list[asyncio.Task[None]] = []
    # A peak is told only when longer times could have been seen as well, which takes half a minute.
    while not (told := server.events(PATTERN, pattern="same_idle_age", stands=True)):
        cut.append(asyncio.create_task(until_cut()))
        # Not together, or it would look like a reload.
        await asyncio.sleep(0.6)
    for task in cut:
        task.cancel()
    await asyncio.gather(*cut, return_exceptions=True)
    [line] = told
    assert abs(line["after_s"] - 12) <= 1
    assert line["interval_s"] == 25
    assert "Heartbeat.for_idle_timeout(" in line["fix"]
    assert (await server.event(CLOSED, reason="transport close"))["user_agent"] == "quiet"


async def no_upgrades(deployments: Deployments) -> None:
    server = deployments.server("guarded, quick")
    url = deployments.url("nginx: no Upgrade", "guarded, quick")
    async with contextlib.AsyncExitStack() as stack:
        clients = await asyncio.gather(
            *(
                stack.enter_async_context(python_client(url, transports="upgrade", token=TOKEN, headers={}))
                for _ in range(20)
            )
        )
        await until(lambda: len(server.events(ACCEPTED)) >= 20, "all clients")
        # Who stays for less has only looked in.
        await asyncio.sleep(10.5)
        assert {client.sio.transport() for client in clients} == {"polling"}
    line = await pattern(server, "never_upgraded")
    assert line["count"] == line["of"] == 20
    assert "Upgrade" in line["fix"]


async def a_proxy_that_ends(deployments: Deployments) -> None:
    server = deployments.server("guarded, crowded")
    url = deployments.url("caddy", "guarded, crowded")
    async with contextlib.AsyncExitStack() as stack:
        clients = await asyncio.gather(*(join(url, "crowd", stack) for _ in range(24)))
        await asyncio.sleep(10.5)
        deployments.end_proxy("caddy")
        for client in clients:
            await client.end()
        line = await pattern(server, "mass_disconnect")
    assert (line["count"], line["of"], line["living"]) == (24, 24, 0)
    assert "stream_close_delay" in line["fix"]


async def two_replicas(deployments: Deployments) -> None:
    url = deployments.url("haproxy: spread by chance", "guarded replica 1")
    servers = [deployments.server(f"guarded replica {number}") for number in (1, 2)]
    told = [asyncio.create_task(pattern(server, "sessions_elsewhere")) for server in servers]
    while not all(task.done() for task in told):
        await asyncio.to_thread(lambda: send(url, "visitor", opened(url, "visitor"), "3"))
        await asyncio.wait(told, timeout=0.05)
    for task in told:
        line = task.result()
        # How many there are is said only where chance has let enough requests come back to the right one.
        assert ("workers" in line) == (line["count"] / line["of"] < 0.9)
        assert line.get("workers", 2) >= 2
        assert "sticky sessions" in line["fix"]


async def a_loop(deployments: Deployments) -> None:
    url = deployments.url("apache", "guarded")
    server = deployments.server("guarded")
    while not (told := server.events(PATTERN, pattern="reconnect_loop", stands=True)):
        async with wire(url, user_agent_header="loop", additional_headers={}) as found:
            await found.send('40/messages,{"token":"stale"}')
            assert (await found.frame()).startswith("44/messages,")
        # As long as a client waits that is in a hurry.
        await asyncio.sleep(0.2)
    [line] = told
    assert line["client_address"] == "127.0.0.1"
    assert line["count"] >= 20
    assert "retry" in line["fix"]


async def test_patterns_over_time(traffic: Deployments) -> None:
    async with asyncio.timeout(2 * PATIENCE), asyncio.TaskGroup() as group:
        for found in (an_idle_limit, no_upgrades, a_proxy_that_ends, two_replicas, a_loop):
            group.create_task(found(traffic))
