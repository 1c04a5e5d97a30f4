"""What the guard's log says of broken deployments: of one request, of many sessions together, of messages to nobody."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http.client
import json
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
import socketio
import websockets

from socketguard.testing import mint
from tests.e2e.deployments import Deployments
from tests.e2e.support import PATIENCE, Server, leave, new_address, wait_until

TOKEN = mint("u-1")
HANDSHAKE_REJECTED, REJECTED = "socketguard.handshake.rejected", "socketguard.connection.rejected"
PATTERN, UNDELIVERED = "socketguard.traffic.pattern", "socketguard.emit.undelivered"
UNHANDLED = "socketguard.event.unhandled"
PAGE = "crm.example.com"


@dataclass(frozen=True)
class Case:
    """One request through a deployment that is broken.

    Attributes:
        reason: of the line in the log.
        detail: which of several causes.
        site: of `tests.e2e.deployments`.
        server: behind it.
        says: words of the hint.
        websocket: whether it is a WebSocket.
        page: the origin of a page; ``<host>`` is the Host that is asked for.
        host: the Host that is asked for; None for the proxy's own address.
        query: of the URL, besides the transport.
        fields: further ones of the line.
    """

    reason: str
    detail: str | None
    site: str
    server: str = "guarded"
    says: tuple[str, ...] = ()
    websocket: bool = False
    page: str | None = None
    host: str | None = None
    query: str = "EIO=4"
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.detail or self.reason} | {self.site}"


def lost(detail: str, site: str, *says: str, server: str = "guarded") -> Case:
    return Case("upgrade_missing", detail, site, server, says, websocket=True)


def refused(detail: str, site: str, *says: str, **options: Any) -> Case:
    return Case("origin_not_allowed", detail, site, says=says, **options)


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
        page="http://<host>",
        host=PAGE,
    ),
    refused("host_rewritten", "haproxy: Host rewritten", "'app.internal'", page="http://<host>", host=PAGE),
    refused("host_rewritten", "caddy: Host rewritten", "let it keep Host", page="http://<host>", host=PAGE),
    refused(
        "host_rewritten",
        "apache: Host rewritten, nothing forwarded",
        "let it keep Host",
        page="http://<host>",
        host=PAGE,
    ),
    refused(
        "port_lost", "nginx: port lost", f"'{PAGE}:8443'", "Host $http_host", page="http://<host>", host=f"{PAGE}:8443"
    ),
    refused(
        "scheme_lost",
        "nginx: scheme lost",
        "X-Forwarded-Proto $scheme",
        f"allowed_origins=['https://{PAGE}']",
        page="https://<host>",
        host=PAGE,
    ),
    refused(
        "scheme_differs",
        "nginx: as Traefik with TLS",
        "as Traefik writes it",
        page="http://<host>",
        host=PAGE,
        websocket=True,
    ),
    refused(
        "origin_foreign", "haproxy", "allowed_origins=['https://evil.example']", page="https://evil.example", host=PAGE
    ),
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


def ask(
    url: str,
    *,
    agent: str,
    query: str = "EIO=4",
    websocket: bool = False,
    origin: str | None = None,
    host: str | None = None,
    method: str = "GET",
    body: str | None = None,
) -> tuple[int, str]:
    """Make a request as a client does: its status and its body."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    if parts.scheme == "https":
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=PATIENCE, context=context
        )
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=PATIENCE)
    headers = {"User-Agent": agent, "X-Forwarded-For": new_address()}
    if origin is not None:
        headers["Origin"] = origin
    if host is not None:
        headers["Host"] = host
    if websocket:
        headers |= {"Upgrade": "websocket", "Connection": "Upgrade"}
        headers |= {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    transport = "websocket" if websocket else "polling"
    with contextlib.closing(connection):
        connection.request(method, f"/socket.io/?transport={transport}&{query}", body, headers)
        answer = connection.getresponse()
        return answer.status, "" if answer.status == 101 else answer.read().decode()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_log_names_the_cause(deployments: Deployments, case: Case) -> None:
    agent = case.name
    url = deployments.url(case.site, case.server)
    origin = None if case.page is None else case.page.replace("<host>", case.host or urlsplit(url).netloc)
    status, body = ask(url, agent=agent, query=case.query, websocket=case.websocket, origin=origin, host=case.host)
    line = deployments.server(case.server).wait_for_event(HANDSHAKE_REJECTED, user_agent=agent)
    assert (line["reason"], line.get("detail")) == (case.reason, case.detail), line
    assert line["status"] == status
    for words in case.says:
        assert words in line["hint"]
    # The client can tell support which line it is.
    assert json.loads(body)["ref"] == line["ref"]


def test_a_session_of_another_replica(deployments: Deployments) -> None:
    url = deployments.url("caddy: two replicas", "guarded replica 1")
    agent = "another replica"
    status, body = ask(url, agent=agent)
    assert status == 200
    sid = json.loads(body[1:])["sid"]
    # In turn: one of two goes to the other replica.
    answers = [ask(url, agent=agent, query=f"EIO=4&sid={sid}", method="POST", body="3") for _ in range(2)]
    assert sorted(status for status, _ in answers) == [200, 400]
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
    sid = json.loads(ask(url, agent=agent)[1][1:])["sid"]
    assert ask(url, agent=agent, query=f"EIO=4&sid={sid}", method="POST", body="1")[0] == 200
    assert ask(url, agent=agent, query=f"EIO=4&sid={sid}", method="POST", body="3")[0] == 400
    line = deployments.server("guarded").wait_for_event(HANDSHAKE_REJECTED, user_agent=agent)
    assert (line["reason"], line["detail"]) == ("session_unknown", "session_ended")


# Joining


@contextlib.asynccontextmanager
async def wire(url: str, agent: str, **options: Any) -> AsyncIterator[Any]:
    """A WebSocket that has opened."""
    address = f"{url.replace('http', 'ws', 1)}/socket.io/?EIO=4&transport=websocket"
    headers = {"X-Forwarded-For": new_address()}
    async with websockets.connect(
        address, proxy=None, user_agent_header=agent, additional_headers=headers, **options
    ) as found:
        assert str(await found.recv()).startswith("0{")
        yield found


async def heard(found: Any) -> str:
    """The next packet that is no ping."""
    while (packet := str(await asyncio.wait_for(found.recv(), PATIENCE))) == "2":
        await found.send("3")
    return packet


async def test_a_wrong_namespace(deployments: Deployments) -> None:
    server = deployments.server("guarded, quick")
    async with wire(deployments.url("nginx", "guarded, quick"), "wrong namespace") as found:
        await found.send(f'40/schedulr,{{"token":"{TOKEN}"}}')
        assert await heard(found) == '44/schedulr,{"message":"Invalid namespace"}'
    line = await asyncio.to_thread(server.wait_for_event, REJECTED, user_agent="wrong namespace")
    assert line["message"] == "Invalid namespace"
    assert (line["requested"], line["suggestion"]) == ("/schedulr", "/scheduler")
    assert set(line["registered"]) == {"/", "/messages", "/scheduler", "/hangs"}


async def test_the_path_in_the_url_is_the_namespace(deployments: Deployments) -> None:
    server = deployments.server("guarded, quick")
    async with wire(deployments.url("nginx", "guarded, quick"), "path as namespace") as found:
        await found.send(f'40/socket.io/,{{"token":"{TOKEN}"}}')
        assert await heard(found) == '44/socket.io/,{"message":"Invalid namespace"}'
    line = await asyncio.to_thread(server.wait_for_event, REJECTED, user_agent="path as namespace")
    assert "path" in line["hint"]


def test_a_proxy_that_lets_no_post_pass(deployments: Deployments) -> None:
    url = deployments.url("nginx: GET only", "guarded, impatient")
    status, body = ask(url, agent="no POST")
    assert status == 200
    sid = json.loads(body[1:])["sid"]
    assert ask(url, agent="no POST", query=f"EIO=4&sid={sid}", method="POST", body="40/messages,")[0] == 403
    line = deployments.server("guarded, impatient").wait_for_event("socketguard.session.ended", user_agent="no POST")
    assert line["reason"] == "connect_timeout"
    assert "did its CONNECT get through" in line["hint"]


async def test_a_connect_handler_that_hangs(deployments: Deployments) -> None:
    server = deployments.server("guarded, quick")
    async with wire(deployments.url("nginx", "guarded, quick"), "hangs") as found:
        await found.send(f'40/hangs,{{"token":"{TOKEN}"}}')
        assert json.loads((await heard(found)).removeprefix("44/hangs,"))["data"]["code"] == "admission_timeout"
    line = await asyncio.to_thread(server.wait_for_event, REJECTED, user_agent="hangs")
    assert line["reason"] == "admission_timeout"
    assert line["detail"] == "connect_handler"


# Messages that reach nobody


async def test_messages_that_reach_nobody(deployments: Deployments) -> None:
    server = deployments.server("guarded, quick")

    async def emit(times: int = 1, **asked: str) -> None:
        query = "&".join(f"{name}={value}" for name, value in asked.items())
        for _ in range(times):
            await asyncio.to_thread(server.post, f"/control/emit?{query}")

    async def said(event: str, **fields: Any) -> dict[str, Any]:
        return await asyncio.to_thread(functools.partial(server.wait_for_event, event, **fields))

    async with wire(deployments.url("nginx", "guarded, quick"), "member") as found:
        await found.send('42/messages,["message:save","too early"]')
        line = await said(UNHANDLED, reason="event_too_early")
        assert line["namespace"] == "/messages"
        assert "after the client's connect event" in line["hint"]
        for name in ("/scheduler", "/messages"):
            await found.send(f'40{name},{{"token":"{TOKEN}"}}')
            assert (await heard(found)).startswith(f"40{name},")

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
        assert await heard(found) == '42/scheduler,["news","text"]'
        await found.send('42/messages,7["message:save","text"]')
        assert await heard(found) == '43/messages,7["text"]'
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
    return await asyncio.to_thread(functools.partial(server.wait_for_event, PATTERN, pattern=name, stands=True))


async def join(url: str, agent: str, stack: contextlib.AsyncExitStack, **options: Any) -> Any:
    found = await stack.enter_async_context(wire(url, agent, **options))
    await found.send(f'40/messages,{{"token":"{TOKEN}"}}')
    assert (await heard(found)).startswith("40/messages,")
    return found


async def until_cut(url: str) -> None:
    """Stay quiet until the proxy cuts the connection."""
    async with contextlib.AsyncExitStack() as stack:
        found = await join(url, "quiet", stack, ping_interval=None)
        with contextlib.suppress(websockets.ConnectionClosed):
            await heard(found)


async def an_idle_limit(deployments: Deployments) -> None:
    server = deployments.server("guarded, cut")
    url = deployments.url("nginx: idle limit of 12 s", "guarded, cut")
    cut: list[asyncio.Task[None]] = []
    # A peak is told only when longer times could have been seen as well, which takes half a minute.
    async with asyncio.timeout(2 * PATIENCE):
        while not (told := server.events(PATTERN, pattern="same_idle_age", stands=True)):
            cut.append(asyncio.create_task(until_cut(url)))
            # Not together, or it would look like a reload.
            await asyncio.sleep(0.6)
    for task in cut:
        task.cancel()
    await asyncio.gather(*cut, return_exceptions=True)
    [line] = told
    assert abs(line["after_s"] - 12) <= 1
    assert line["interval_s"] == 25
    assert "Heartbeat.for_idle_timeout(" in line["fix"]
    closed = server.wait_for_event("socketguard.connection.closed", reason="transport close")
    assert closed["user_agent"] == "quiet"


async def stay_on_polling(url: str, over: asyncio.Event) -> str:
    client = socketio.AsyncClient(reconnection=False)
    try:
        await client.connect(url, namespaces=["/messages"], auth={"token": TOKEN}, wait_timeout=PATIENCE)
        await over.wait()
        return str(client.transport())
    finally:
        await leave(client)


async def no_upgrades(deployments: Deployments) -> None:
    server = deployments.server("guarded, quick")
    url = deployments.url("nginx: no Upgrade", "guarded, quick")
    over = asyncio.Event()
    clients = [asyncio.create_task(stay_on_polling(url, over)) for _ in range(20)]
    await asyncio.to_thread(
        wait_until, lambda: len(server.events("socketguard.connection.accepted")) >= 20, "all clients"
    )
    # Who stays for less has only looked in.
    await asyncio.sleep(10.5)
    over.set()
    assert set(await asyncio.gather(*clients)) == {"polling"}
    line = await pattern(server, "never_upgraded")
    assert line["count"] == line["of"] == 20
    assert "Upgrade" in line["fix"]


async def a_proxy_that_ends(deployments: Deployments) -> None:
    server = deployments.server("guarded, crowded")
    url = deployments.url("caddy", "guarded, crowded")
    async with contextlib.AsyncExitStack() as stack:
        clients = await asyncio.gather(*(join(url, "crowd", stack, ping_interval=None) for _ in range(24)))
        await asyncio.sleep(10.5)
        deployments.end_proxy("caddy")
        for client in clients:
            with pytest.raises(websockets.ConnectionClosed):
                await heard(client)
        line = await pattern(server, "mass_disconnect")
    assert (line["count"], line["of"], line["living"]) == (24, 24, 0)
    assert "stream_close_delay" in line["fix"]


async def two_replicas(deployments: Deployments) -> None:
    url = deployments.url("haproxy: spread by chance", "guarded replica 1")
    servers = [deployments.server(f"guarded replica {number}") for number in (1, 2)]
    told = [asyncio.create_task(pattern(server, "sessions_elsewhere")) for server in servers]

    def visit() -> None:
        sid = json.loads(ask(url, agent="visitor")[1][1:])["sid"]
        ask(url, agent="visitor", query=f"EIO=4&sid={sid}", method="POST", body="3")

    while not all(task.done() for task in told):
        await asyncio.to_thread(visit)
        await asyncio.wait(told, timeout=0.05)
    for task in told:
        line = task.result()
        assert line["workers"] >= 2
        assert "sticky sessions" in line["fix"]


async def a_loop(deployments: Deployments) -> None:
    url = deployments.url("apache", "guarded")
    server = deployments.server("guarded")
    address = f"{url.replace('http', 'ws', 1)}/socket.io/?EIO=4&transport=websocket"
    async with asyncio.timeout(2 * PATIENCE):
        while not (told := server.events(PATTERN, pattern="reconnect_loop", stands=True)):
            async with websockets.connect(address, proxy=None, user_agent_header="loop") as found:
                await found.recv()
                await found.send('40/messages,{"token":"stale"}')
                assert (await heard(found)).startswith("44/messages,")
            # As long as a client waits that is in a hurry.
            await asyncio.sleep(0.2)
    [line] = told
    assert line["client_address"] == "127.0.0.1"
    assert line["count"] >= 20
    assert "retry" in line["fix"]


async def test_patterns_over_time(traffic: Deployments) -> None:
    async with asyncio.TaskGroup() as group:
        for found in (an_idle_limit, no_upgrades, a_proxy_that_ends, two_replicas, a_loop):
            group.create_task(found(traffic))
