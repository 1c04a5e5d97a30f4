"""``socketguard doctor URL --json`` against deployments that break in known ways, and against good ones."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from socketguard.testing import mint
from tests.e2e.deployments import Deployments
from tests.e2e.support import PATIENCE, ROOT

TOKEN = mint("u-1")
PROXIES = ("nginx", "haproxy", "caddy", "apache")
PYTHON = ("plain", "guarded")
MESSAGES = ("--namespace", "/messages")
AS_USER = (*MESSAGES, "--token", TOKEN)
ELSEWHERE = ("--origin", "https://crm.example.com")
# The doctor waits for what it asks, however slow this machine is; but where it must wait in vain.
PATIENT = ("--timeout", "300")
SOON = ("--timeout", "15")
# Held for 5 s more than the interval of the server, which is 5 s.
HELD = (*MESSAGES, "--idle", "1")


@dataclass(frozen=True)
class Case:
    """What the doctor is asked about."""

    symptom: str | None  # which finding comes first; None for none at all
    site: str  # of `tests.e2e.deployments`
    server: str  # behind it
    arguments: tuple[str, ...] = ()
    url: str = ""  # put behind the address, or before it where it ends with ``://``
    says: str = ""  # words of the first finding, in whichever of its texts
    answers: bool = True  # whether anything answers by HTTP

    @property
    def name(self) -> str:
        more = " ".join(argument for argument in self.arguments if not argument.startswith("eyJ"))
        return " | ".join(filter(None, (self.symptom or "good", self.site, self.server, more, self.url)))


GOOD = [
    Case(None, "direct", "plain", MESSAGES),
    Case(None, "direct", "guarded", AS_USER),
    Case(None, "direct", "node", MESSAGES),
    Case(None, "nginx", "plain", MESSAGES),
    Case(None, "nginx: TLS", "guarded", AS_USER),
    Case(None, "haproxy", "node", MESSAGES),
    Case(None, "caddy", "guarded"),
    Case(None, "apache", "plain"),
]
"""As they should be: each is examined by a process of its own."""

ALSO_GOOD = [
    Case(None, "direct", "guarded", url="/messages"),
    Case(None, "nginx: sticky by address", "plain"),
    # A page of the same origin sends the cookie by itself.
    Case(None, "haproxy: sticky by cookie", "plain"),
    Case(None, "caddy: sticky by cookie", "guarded replica 1"),
    Case(None, "caddy", "node, other origin", ELSEWHERE),
    Case(None, "direct", "guarded, impatient", AS_USER),
    Case(None, "nginx: as Traefik", "guarded", AS_USER),
    Case(None, "nginx: as Traefik with TLS", "guarded", AS_USER),
    Case(None, "nginx: as Traefik with TLS", "node"),
    Case(None, "nginx", "quick", HELD),
    Case(None, "haproxy", "guarded, quick", (*AS_USER, "--idle", "1")),
    Case(None, "haproxy: no OPTIONS", "plain"),
    Case(None, "apache: wstunnel", "node", MESSAGES),
    # Apache sends X-Forwarded-Host by itself.
    *(Case(None, "apache: Host rewritten", server) for server in PYTHON),
    *(Case(None, "nginx", server, ("--only", "body")) for server in ("plain", "node")),
    Case(None, "direct", "node, polling only", MESSAGES),
    Case(None, "direct", "plain", MESSAGES, "ws://"),
    Case(None, "nginx", "node", (), "/messages"),
    Case(None, "nginx: other path", "plain", ("--path", "/api/socket.io")),
]

BROKEN = [
    Case("S-01", "direct", "silence", ("--only", "S-01", *SOON), answers=False),
    *(Case("S-01", f"{proxy}: hangs", "nothing", says=proxy) for proxy in ("nginx", "haproxy")),
    Case("S-02", "direct", "nothing", says="No connection", answers=False),
    Case("S-02", "nginx: self-signed", "plain", says="self-signed"),
    Case("S-02", "nginx: expired", "guarded", says="expired"),
    Case("S-02", "nginx: other name", "plain", says="mismatch"),
    *(Case("S-03", f"{proxy}: catch-all", "nothing", says=proxy) for proxy in ("nginx", "caddy")),
    Case("S-04", "caddy: no route", "nothing", says="reverse_proxy"),
    *(Case("S-05", f"{proxy}: no Upgrade", server) for proxy in PROXIES for server in PYTHON),
    Case("S-05", "nginx: no Upgrade", "node", says="proxy_set_header Upgrade $http_upgrade"),
    Case("S-05", "apache: no Upgrade", "node", says="upgrade=websocket"),
    Case("S-05", "nginx: HTTP/1.0", "plain", says="proxy_http_version 1.1"),
    *(Case("S-05", "nginx: no Connection", server, says="Connection") for server in ("guarded", "node")),
    Case("S-06", "direct", "without WebSocket", says="uvicorn[standard]"),
    Case("S-05", "direct", "guarded, without WebSocket", says="uvicorn[standard]"),
    Case("S-06", "nginx: no Connection", "plain", says="$connection_upgrade"),
    Case("S-07", "nginx: as Traefik", "plain", says="X-Forwarded-Proto"),
    Case("S-07", "nginx: as Traefik with TLS", "plain", says="SocketGuard"),
    *(Case("S-08", f"{proxy}: Host rewritten", server, says="Host") for proxy in PROXIES[:3] for server in PYTHON),
    Case("S-08", "apache: Host rewritten, nothing forwarded", "plain", says="Host"),
    Case("S-08", "nginx: port lost", "plain", says="Host"),
    *(Case("S-08", "nginx: scheme lost", server, says="X-Forwarded-Proto") for server in PYTHON),
    Case("S-08", "nginx", "plain", ELSEWHERE, says="https://crm.example.com"),
    Case("S-09", "nginx: prefix stripped", "plain"),
    Case("S-09", "nginx: prefix stripped", "guarded", says="wrong_path"),
    *(Case("S-09", "nginx: prefix added", server) for server in ("plain", "node")),
    Case("S-09", "nginx: other path", "plain", says="--path"),
    Case("S-09", "haproxy: prefix stripped", "node"),
    Case("S-09", "caddy: prefix stripped", "plain"),
    Case("S-09", "apache: prefix added", "guarded"),
    # Node never answers a WebSocket on another path.
    Case("S-09", "apache: prefix added", "node", ("--only", "websocket", *SOON)),
    Case("S-09", "apache: not routed", "plain", says="apache"),
    Case("S-09", "direct", "plain", ("--path", "/api/socket.io")),
    Case("S-09", "direct", "guarded", ("--path", "/ws")),
    Case("S-10", "traefik: no router", "nothing", says="labels"),
    *(Case("S-11", f"{proxy}: down", "nothing", says=proxy) for proxy in PROXIES),
    *(Case("S-11", f"traefik: {problem}", "nothing", says="traefik") for problem in ("no server", "bad gateway")),
    Case("S-11", "alb: no target", "nothing", says="aws-alb"),
    *(Case("S-12", f"{proxy}: two replicas", "plain") for proxy in ("nginx", "haproxy")),
    Case("S-12", "caddy: two replicas", "guarded replica 1"),
    Case("S-13", "haproxy: sticky by cookie", "node, other origin", ELSEWHERE, says="SRV"),
    Case("S-13", "caddy: sticky by cookie", "node, other origin", ELSEWHERE, says="sio_lb"),
    *(Case("S-14", f"{name}: idle limit", "quick", HELD, says="cut without a close frame") for name in PROXIES[:2]),
    Case("S-14", "apache: idle limit", "quick", HELD),
    Case("S-14", "nginx: idle limit", "guarded, quick", (*AS_USER, "--idle", "1"), says="Heartbeat.for_idle_timeout"),
    Case("S-14", "nginx", "node, slow", says="75"),
    *(Case("S-15", f"{proxy}: first byte in 3 s", "quick", HELD, says="504") for proxy in PROXIES[1:3]),
    Case("S-16", "nginx: to https", "nothing", says="https://127.0.0.1"),
    Case("S-17", "nginx: slash dropped", "nothing", says="addTrailingSlash"),
    Case("S-18", "nginx", "plain", ("--no-trailing-slash",), says="addTrailingSlash"),
    # Another spelling of 127.0.0.1, which doesn't look like this machine.
    Case("S-19", "direct", "guarded", ELSEWHERE, "127.1"),
    Case("S-36", "direct", "guarded", AS_USER, "127.1"),
    Case("S-20", "nginx: small bodies", "plain", ("--only", "S-20"), says="413"),
    Case("S-20", "caddy: small bodies", "plain", ("--only", "S-20")),
    Case("S-20", "haproxy: small bodies", "node", ("--only", "S-20")),
    Case("S-21", "nginx: GET only", "plain", says="403"),
    Case("S-21", "apache: GET only", "guarded", says="403"),
    Case("S-21", "haproxy: no POST", "node", says="405"),
    Case("S-22", "nginx: CORS doubled", "plain", says="doubled"),
    Case("S-22", "haproxy: CORS doubled", "guarded", says="doubled"),
    Case("S-22", "apache: CORS doubled", "plain", says="doubled"),
    Case("S-22", "direct", "node, any origin", says="Credentials"),
    Case("S-22", "direct", "node", ELSEWHERE, says="no CORS header"),
    *(Case("S-23", "nginx: as Engine.IO 3", server) for server in (*PYTHON, "node")),
    Case("S-23", "server of Socket.IO 2", "nothing", says="the server does not speak Engine.IO 4"),
    Case("S-25", "nginx", "plain", (), "/api/", says="/api/"),
    Case("S-25", "haproxy", "node", ("--namespace", "/schedulr"), says="misspelt"),
    Case("S-25", "caddy", "guarded", ("--namespace", "/schedulr", "--token", TOKEN), says="misspelt"),
    Case("S-26", "nginx", "plain", ("--namespace", "/hangs", "--only", "namespace", *SOON), says="connect handler"),
    Case("S-27", "nginx: basic auth", "plain", says="Basic"),
    Case("S-27", "haproxy: basic auth", "guarded", says="Basic"),
    Case("S-27", "nginx: login page", "nothing", says="login"),
    Case("S-28", "envoy: HTTP/1.0", "nothing", says="proxy_http_version 1.1"),
    Case("S-30", "nginx: TLS", "plain", (), "http://", says="TLS"),
    Case("S-30", "nginx", "plain", (), "https://", says="plain HTTP", answers=False),
    Case("S-30", "direct", "TLS", (), "http://", says="TLS", answers=False),
    Case("S-33", "nginx: page built elsewhere", "node", ("--page", "<url>/"), says="app.js"),
    Case("S-34", "caddy", "guarded", (*MESSAGES, "--token", mint("u-1", lifetime=-276_000)), says="expired 3 days ago"),
    Case("S-34", "nginx", "guarded", (*MESSAGES, "--token", mint("u-1", key="k" * 32)), says="token_invalid"),
    Case("S-35", "nginx: expires soon", "guarded", says="3 days"),
    Case("S-37", "haproxy", "draining", says="draining"),
    Case("S-38", "direct", "node, forbidden"),
]

ANY_PAGE = ("--origin", "https://page.example.com")

# The true cause of each was written down before the doctor was asked for the first time.
FURTHER = [
    # One of two servers is dead, so that every other request fails.
    Case("S-39", "nginx: one of two is dead", "plain", says="one of several servers"),
    Case("S-39", "haproxy: one of two is dead", "guarded", says="503"),
    Case("S-39", "caddy: one of two is dead", "node", says="502"),
    # The header by which compression is agreed is taken out of the answer, and the server compresses.
    Case("S-40", "nginx: extensions hidden", "plain", says="permessage-deflate"),
    Case("S-40", "haproxy: extensions hidden", "guarded", says="permessage-deflate"),
    # What follows the question mark is lost.
    Case("S-41", "nginx: query lost", "plain", says="query"),
    Case("S-41", "nginx: query lost", "guarded", says="query"),
    Case("S-41", "haproxy: query replaced", "node", says="query"),
    # A cache answers every client with the first one's session.
    Case("S-42", "nginx: cached", "plain", says="cache"),
    # The proxy has no way for WebSockets; the application runs.
    Case("S-11", "haproxy: no WebSockets", "plain", says="polling reaches the application"),
    Case("S-11", "caddy: WebSockets elsewhere", "guarded", says="polling reaches the application"),
    Case("S-05", "haproxy: WebSockets denied", "plain", says="WebSockets are refused"),
    # The path arrives as "//".
    Case("S-09", "nginx: slashes doubled", "guarded", says="wrong_path"),
    Case("S-09", "direct", "root path"),
    # The proxy writes the CORS header of another page, or the server never sees the page's origin.
    Case("S-22", "nginx: CORS of another page", "node, any origin", ANY_PAGE, says="another page"),
    Case("S-22", "nginx: Origin taken away", "plain", ELSEWHERE, says="no CORS header"),
    # A limit of requests at the proxy.
    Case("S-37", "haproxy: rate limit", "plain", says="limits how often"),
    # A connection has a fixed age, busy or not; or a limit of quiet that counts only what the server sends.
    Case("S-14", "direct", "quick, fixed age", HELD, says="fixed age"),
    Case("S-14", "nginx: idle limit", "quick", (*HELD, "-v"), says="Heartbeat.for_idle_timeout"),
    # The handler raises, or one side speaks msgpack.
    Case("S-26", "direct", "plain", ("--namespace", "/fails", "--only", "namespace", *SOON), says="raised"),
    Case("S-26", "nginx", "msgpack", (*MESSAGES, "--only", "namespace", *SOON), says="msgpack"),
    Case("S-26", "nginx", "guarded, msgpack", (*AS_USER, "--only", "namespace", *SOON), says="msgpack"),
    # The page can't be read from here, and of the endpoint that says nothing.
    Case(
        "S-33", "direct", "plain", ("--page", "http://127.0.0.1:1/", "--origin", "<url>"), says="this machine can read"
    ),
    # A page comes in place of an error.
    Case("S-03", "nginx: errors as pages", "plain", says="html"),
    # The proxy speaks http to a server of https.
    Case("S-11", "nginx", "TLS", says="502"),
    # A firewall lets only browsers pass.
    Case("S-27", "haproxy: browsers only", "plain", says="in front"),
    # WebSockets go to another worker than polling.
    Case("S-12", "haproxy: WebSockets elsewhere", "plain"),
    # Only WebSockets are forwarded.
    Case("S-09", "nginx: WebSockets only", "plain", says="WebSocket"),
    # The route of the proxy has no star at its end.
    Case("S-04", "caddy: no wildcard", "plain", says="reverse_proxy"),
    Case("S-16", "nginx: to www", "nothing", says="www.example.com"),
    Case("S-11", "nginx: maintenance", "nothing", says="503"),
]

EXAMINED = {case.name: case for case in (*ALSO_GOOD, *BROKEN, *FURTHER)}
"""By name; those that wait come first, so that the others needn't wait for them."""
EXAMINED = dict(sorted(EXAMINED.items(), key=lambda item: not {"--timeout", "--idle"} & set(item[1].arguments)))


def command(case: Case, deployments: Deployments) -> list[str]:
    """The arguments of the doctor."""
    url = address = deployments.url(case.site, case.server)
    if case.url.endswith("://"):
        url = case.url + address.partition("://")[2]
    elif case.url:
        url = address + case.url if case.url.startswith("/") else address.replace("127.0.0.1", case.url)
    patience = () if "--timeout" in case.arguments else PATIENT
    return [url, "--json", *patience, *(argument.replace("<url>", address) for argument in case.arguments)]


def trust(authority: str) -> None:
    """Let this process take the certificates of an authority for good ones."""
    os.environ["SSL_CERT_FILE"] = authority


def examine_here(arguments: list[str]) -> tuple[int, str]:
    """Run the command in this process, which does nothing else."""
    from socketguard.cli import main

    with contextlib.redirect_stdout(io.StringIO()) as output:
        return main(["doctor", *arguments]), output.getvalue()


@pytest.fixture(scope="module")
def deployments(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployments]:
    wanted = [(case.site, case.server) for case in (*GOOD, *EXAMINED.values())]
    with Deployments.stand(lambda: tmp_path_factory.mktemp("deployments"), wanted) as found:
        yield found


@pytest.fixture(scope="module")
def results(deployments: Deployments) -> dict[str, tuple[int, str]]:
    """What the doctor says of each: status and output."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.e2e.test_doctor", "socketguard.cli.doctor.command"])
    with context.Pool(24, trust, (str(deployments.authority),)) as pool:
        found = pool.map_async(examine_here, [command(case, deployments) for case in EXAMINED.values()], chunksize=1)
        return dict(zip(EXAMINED, found.get(20 * PATIENCE), strict=True))


def findings(output: str) -> list[dict[str, Any]]:
    said = json.loads(output)
    assert set(said) == {"schema_version", "target", "findings", "unexamined"}
    for finding in said["findings"]:
        assert set(finding) == {"id", "severity", "title", "evidence", "cause", "fix", "docs"}
    assert "eyJ" not in output
    return list(said["findings"])


@pytest.mark.parametrize("name", EXAMINED)
def test_what_the_doctor_names_first(name: str, results: dict[str, tuple[int, str]]) -> None:
    case, (status, output) = EXAMINED[name], results[name]
    found = findings(output)
    assert [finding["id"] for finding in found][:1] == ([case.symptom] if case.symptom else []), found
    assert status == (0 if case.symptom is None else 1 if case.answers else 3)
    assert case.says in " ".join(found[0].values() if found else "")


def test_nothing_is_found_at_good_deployments(deployments: Deployments) -> None:
    code = "import sys; from socketguard.cli import main; sys.exit(main())"
    environment = {**os.environ, "SSL_CERT_FILE": str(deployments.authority)}

    def run(case: Case) -> subprocess.CompletedProcess[str]:
        arguments = [sys.executable, "-W", "error", "-c", code, "doctor", *command(case, deployments)]
        return subprocess.run(
            arguments, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=20 * PATIENCE
        )

    with ThreadPoolExecutor(len(GOOD)) as pool:
        for case, done in zip(GOOD, pool.map(run, GOOD), strict=True):
            assert not done.stderr, done.stderr
            assert findings(done.stdout) == [], case.name
            assert done.returncode == 0
