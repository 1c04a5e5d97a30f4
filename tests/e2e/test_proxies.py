"""Real proxies in front of a real server: every transport, the origin of a page, the address of a client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import websockets

from socketguard.testing import mint
from tests.e2e.support import PATIENCE, TRANSPORTS, JavaScript, Server, free_port, new_address, running, seen

TOKEN = mint("u-1", tenant_id="acme")
REJECTED = "socketguard.handshake.rejected"

NGINX = """
daemon off;
error_log stderr;
pid {folder}/nginx.pid;
worker_processes 1;
{user}
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
  map $http_upgrade $traefik_proto {{ default wss; '' https; }}
  server {{
    listen 127.0.0.1:{port};
    location /socket.io/ {{
      proxy_pass http://127.0.0.1:{upstream};
      proxy_http_version 1.1;
      {headers}
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_read_timeout 120s;
      proxy_send_timeout 120s;
      client_max_body_size 2m;
    }}
  }}
}}
"""

UPGRADE = """
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
"""
HOST = "proxy_set_header Host $http_host;"
NGINX_HEADERS = {
    "nginx": UPGRADE + HOST + "proxy_set_header X-Forwarded-Proto $scheme;",
    # What Traefik sends when it ends TLS: wss on upgrades, https on other requests.
    "as traefik": UPGRADE + HOST + "proxy_set_header X-Forwarded-Proto $traefik_proto;",
    "without upgrade": HOST + "proxy_set_header X-Forwarded-Proto $scheme;",
    "without host": UPGRADE,
    "tls without proto": UPGRADE + HOST,
}

HAPROXY = """
global
  maxconn 256
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout tunnel 1h
  timeout client-fin 30s
frontend in
  bind 127.0.0.1:{port}
  option forwardfor
  http-request set-header X-Forwarded-Proto https if {{ ssl_fc }}
  default_backend out
backend out
  server a 127.0.0.1:{upstream}
"""

CADDY = """
{{
  admin off
  auto_https off
  grace_period 1s
}}
http://:{port} {{
  bind 127.0.0.1
  reverse_proxy /socket.io/* 127.0.0.1:{upstream}
}}
"""


@contextlib.contextmanager
def proxy(kind: str, folder: Path, upstream: int) -> Iterator[str]:
    """A proxy as a child process in the foreground; yields its URL."""
    port = free_port()
    if kind == "haproxy":
        text = HAPROXY.format(port=port, upstream=upstream)
        command = ["haproxy", "-db", "-f"]
    elif kind == "caddy":
        text = CADDY.format(port=port, upstream=upstream)
        command = ["caddy", "run", "--adapter", "caddyfile", "--config"]
    else:
        user = "user root;" if os.geteuid() == 0 else ""
        text = NGINX.format(folder=folder, port=port, upstream=upstream, user=user, headers=NGINX_HEADERS[kind])
        command = ["nginx", "-e", "stderr", "-p", str(folder), "-c"]
    config = folder / "proxy.conf"
    config.write_text(text)
    environment = {**os.environ, "HOME": str(folder), "PATH": os.environ["PATH"] + os.pathsep + "/usr/sbin"}
    with running([*command, str(config)], folder / "proxy.log", port, env=environment):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module", params=["nginx", "haproxy", "caddy"])
def proxied(request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    place = tmp_path_factory.mktemp(request.param)
    with Server(folder, {}) as server, proxy(request.param, place, server.port) as url:
        yield server, url
        # Clients say goodbye through the proxy.
        server.wait_until_empty()


Start = Callable[..., tuple[Server, str]]


@pytest.fixture
def start(serve: Callable[..., Server], tmp_path: Path) -> Iterator[Start]:
    """A server of one's own, behind one of the variants of nginx."""
    with contextlib.ExitStack() as stack:

        def start(kind: str, *arguments: str, **settings: Any) -> tuple[Server, str]:
            server = serve(*arguments, **settings)
            url = stack.enter_context(proxy(kind, tmp_path, server.port))
            stack.callback(server.wait_until_empty)
            return server, url

        yield start


@pytest.mark.parametrize("transports", TRANSPORTS)
def test_a_page_of_the_same_origin(js: JavaScript, proxied: tuple[Server, str], transports: str) -> None:
    server, url = proxied
    agent = f"page/{new_address()}"
    steps: list[dict[str, Any]] = [{"wait": ["connect", "connect_error"]}, {"call": ["send", "hello"]}]
    if transports == "upgrade":
        steps.append({"wait": "upgrade"})
    headers = {"Origin": url, "User-Agent": agent}
    result = js.play(url, transports=transports, headers=headers, token=TOKEN, steps=[*steps, {"transport": True}])
    assert result["steps"][0]["kind"] == "connect"
    assert result["steps"][1] == "sent"
    assert result["steps"][-1] == ("polling" if transports == "polling" else "websocket")
    assert not seen(result, "upgradeError")
    line = server.wait_for_event("socketguard.connection.accepted", user_agent=agent)
    assert line["origin"] == url
    assert line["client_address"] == "127.0.0.1"


@pytest.mark.parametrize("transports", TRANSPORTS)
def test_a_page_of_another_origin(js: JavaScript, proxied: tuple[Server, str], transports: str) -> None:
    server, url = proxied
    headers = {"Origin": "https://evil.example", "X-Forwarded-For": new_address(), "User-Agent": transports}
    error = js.outcome(url, transports=transports, headers=headers, token=TOKEN)
    assert error["kind"] == "connect_error"
    line = server.wait_for_event(REJECTED, user_agent=transports)
    assert (line["reason"], line["status"]) == ("origin_not_allowed", 403)
    assert "allowed_origins=['https://evil.example']" in line["hint"]
    if transports != "websocket":
        assert error["description"] == 403
        body = json.loads(error["body"])
        assert body == {
            "code": "origin_not_allowed",
            "message": "Origin not allowed",
            "retry": "never",
            "ref": line["ref"],
        }


async def test_the_address_of_the_client(proxied: tuple[Server, str]) -> None:
    # The client is on 127.0.0.9, which nobody trusts, and pretends to be somebody else.
    server, url = proxied
    agent = f"address/{new_address()}"
    async with websockets.connect(
        url.replace("http", "ws") + "/socket.io/?EIO=4&transport=websocket",
        additional_headers={"X-Forwarded-For": "203.0.113.7"},
        user_agent_header=agent,
        local_addr=("127.0.0.9", 0),
        proxy=None,
    ) as wire:
        await wire.recv()
        await wire.send(f'40/messages,{{"token":"{TOKEN}"}}')
        assert str(await asyncio.wait_for(wire.recv(), PATIENCE)).startswith('40/messages,{"sid"')
        await wire.send('42/messages,1["whoami"]')
        answer = json.loads(str(await asyncio.wait_for(wire.recv(), PATIENCE)).removeprefix("43/messages,1"))
    assert answer[0]["client_address"] == "127.0.0.9"
    line = server.wait_for_event("socketguard.connection.accepted", user_agent=agent)
    assert line["client_address"] == "127.0.0.9"


async def test_the_address_where_no_proxy_is_trusted(start: Start) -> None:
    server, url = start("nginx", trusted_proxies=[])
    async with websockets.connect(
        url.replace("http", "ws") + "/socket.io/?EIO=4&transport=websocket",
        additional_headers={"X-Forwarded-For": "203.0.113.7"},
        local_addr=("127.0.0.9", 0),
        proxy=None,
    ) as wire:
        await wire.recv()
        await wire.send("40/messages,")
        await asyncio.wait_for(wire.recv(), PATIENCE)
    line = server.wait_for_event("socketguard.connection.rejected")
    assert line["client_address"] == "127.0.0.1"


@pytest.mark.parametrize("transports", TRANSPORTS)
def test_uvicorns_own_proxy_headers(js: JavaScript, start: Start, transports: str) -> None:
    # uvicorn's default: it puts the client's address and the scheme into the scope, for peers on 127.0.0.1.
    server, url = start("as traefik", "--proxy-headers", trusted_proxies=[])
    headers = {"Origin": url.replace("http", "https"), "X-Forwarded-For": "203.0.113.7"}
    outcome = js.outcome(url, transports=transports, headers=headers, token=TOKEN)
    assert outcome["kind"] == "connect"
    # The nearest hop that uvicorn does not trust.
    assert server.wait_for_event("socketguard.connection.accepted")["client_address"] == "203.0.113.7"


@pytest.fixture(scope="module")
def tls_server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """uvicorn with TLS of its own, and no proxy."""
    place = tmp_path_factory.mktemp("tls")
    certificate, key = str(place / "certificate.pem"), str(place / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-days", "1", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    arguments = ["--ssl-certfile", certificate, "--ssl-keyfile", key]
    with Server(folder, {}, arguments=arguments) as server:
        yield server


@pytest.mark.parametrize("transports", TRANSPORTS)
def test_the_same_origin_with_tls_and_no_proxy(js: JavaScript, tls_server: Server, transports: str) -> None:
    server = tls_server
    assert server.url.startswith("https://")
    options: dict[str, Any] = {"transports": transports, "token": TOKEN, "rejectUnauthorized": False}
    assert js.outcome(server.url, headers={"Origin": server.url}, **options)["kind"] == "connect"
    other = server.url.replace("https", "http")
    assert js.outcome(server.url, headers={"Origin": other}, **options)["kind"] == "connect_error"


@pytest.mark.parametrize("transports", TRANSPORTS)
def test_what_traefik_sends_passes_the_origin_check(js: JavaScript, start: Start, transports: str) -> None:
    server, url = start("as traefik")
    steps: list[dict[str, Any]] = [{"wait": ["connect", "connect_error"]}]
    if transports == "upgrade":
        steps.append({"wait": ["upgrade", "upgradeError"]})
    headers = {"Origin": url.replace("http", "https")}
    result = js.play(url, transports=transports, headers=headers, token=TOKEN, steps=steps)
    assert result["steps"][0]["kind"] == "connect"
    assert result["steps"][-1]["kind"] in ("connect", "upgrade")
    assert not server.events(REJECTED)


@pytest.mark.parametrize("transports", ["polling", "websocket"])
def test_plain_http_behind_tls_is_another_origin(js: JavaScript, start: Start, transports: str) -> None:
    server, url = start("as traefik")
    error = js.outcome(url, transports=transports, headers={"Origin": url}, token=TOKEN)
    assert error["kind"] == "connect_error"
    assert server.wait_for_event(REJECTED)["reason"] == "origin_not_allowed"


def test_a_proxy_that_drops_the_upgrade(js: JavaScript, start: Start) -> None:
    server, url = start("without upgrade")
    result = js.play(
        url, transports="upgrade", token=TOKEN, steps=[{"wait": "connect"}, {"wait": ["upgrade", "upgradeError"]}]
    )
    assert result["steps"][1]["kind"] == "upgradeError"
    line = server.wait_for_event(REJECTED)
    assert (line["reason"], line["status"]) == ("upgrade_missing", 400)
    assert "proxy_set_header Upgrade $http_upgrade" in line["hint"]


def test_a_proxy_that_rewrites_the_host(js: JavaScript, start: Start) -> None:
    server, url = start("without host")
    error = js.outcome(url, transports="polling", headers={"Origin": url}, token=TOKEN)
    assert error["description"] == 403
    line = server.wait_for_event(REJECTED)
    # Page and server have the same host here, so that only the port tells that Host was rewritten.
    assert line["detail"] == "port_lost"
    assert f"allowed_origins=['{url}']" in line["hint"]
    assert "proxy_set_header Host $http_host" in line["hint"]


def test_a_proxy_that_ends_tls_and_does_not_say_so(js: JavaScript, start: Start) -> None:
    server, url = start("tls without proto")
    origin = url.replace("http", "https")
    error = js.outcome(url, transports="polling", headers={"Origin": origin}, token=TOKEN)
    assert error["description"] == 403
    hint = server.wait_for_event(REJECTED)["hint"]
    assert "X-Forwarded-Proto" in hint
    assert f"allowed_origins=['{origin}']" in hint
