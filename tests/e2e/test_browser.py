"""Pages in Chromium that call another origin: `crm.localhost` calls an API on 127.0.0.1."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from socketguard.testing import mint
from tests.e2e.support import JS, PATIENCE, TRANSPORTS, Driver, Server

TOKEN = mint("u-1", tenant_id="acme")
CLIENT = (JS / "node_modules/socket.io-client/dist/socket.io.min.js").read_bytes()

CONNECT = """
async ({url, options, upgrade}) => {
  const socket = io(url + "/messages", {forceNew: true, reconnection: false, ...options});
  try {
    const outcome = await new Promise((resolve) => {
      socket.on("connect", () => resolve({kind: "connect"}));
      socket.on("connect_error", (error) => resolve({
        kind: "connect_error", message: error.message, status: error.description, data: error.data,
      }));
    });
    if (outcome.kind === "connect") {
      const engine = socket.io.engine;
      if (upgrade && engine.transport.name !== "websocket") {
        await new Promise((resolve) => engine.once("upgrade", resolve));
      }
      outcome.whoami = await socket.emitWithAck("whoami");
      outcome.transport = engine.transport.name;
    }
    return outcome;
  } finally {
    socket.disconnect();
    while (socket.io.engine.readyState !== "closed") await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
"""

FETCH = """
async ({url, options}) => {
  try {
    const answer = await fetch(url, options);
    return {status: answer.status, body: await answer.json()};
  } catch (error) {
    return {error: error.name};
  }
}
"""


class Page(BaseHTTPRequestHandler):
    """A page with the client, and nothing else."""

    def do_GET(self) -> None:
        script = self.path == "/socket.io.js"
        body = CLIENT if script else b"<!doctype html><title>CRM</title><script src=/socket.io.js></script>"
        self.send_response(200)
        self.send_header("Content-Type", "text/javascript" if script else "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the output of the tests is not the place for it."""


@pytest.fixture(scope="module")
def page() -> Iterator[str]:
    """The origin of a page."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://crm.localhost:{server.server_port}"
    server.shutdown()
    thread.join(PATIENCE)
    server.server_close()


@pytest.fixture(scope="module")
def strict(folder: Any) -> Iterator[Server]:
    with Server(folder, {}) as server:
        yield server


@pytest.fixture(scope="module", params=["alone", "behind CORSMiddleware"])
def open_to_page(request: pytest.FixtureRequest, folder: Any, page: str) -> Iterator[Server]:
    outside = "cors" if request.param == "behind CORSMiddleware" else "nothing"
    with Server(folder, {"allowed_origins": [page], "outside": outside}) as server:
        yield server


Visit = Callable[..., Any]


@pytest.fixture
def visit(_browser: Driver, page: str) -> Visit:
    def visit(script: str, **argument: Any) -> Any:
        return _browser.run({"page": page + "/", "script": script.strip(), "argument": argument})

    return visit


def test_another_origin_is_refused_with_the_argument_to_paste(visit: Visit, page: str, strict: Server) -> None:
    for transports in ("polling", "websocket"):
        result = visit(CONNECT, url=strict.url, options={"transports": [transports], "auth": {"token": TOKEN}})["value"]
        assert result["kind"] == "connect_error"
        # A browser hides the answer from a page that is not entitled to it.
        assert result["message"] == ("xhr poll error" if transports == "polling" else "websocket error")
        line = strict.wait_for_event("socketguard.handshake.rejected", transport=transports)
        assert (line["reason"], line["status"], line["origin"]) == ("origin_not_allowed", 403, page)
        assert f"allowed_origins=['{page}']" in line["hint"]
    assert not strict.events("socketguard.connection.accepted")


def test_the_answer_is_hidden_from_a_page_that_is_not_entitled(visit: Visit, strict: Server) -> None:
    found = visit(FETCH, url=strict.url + "/socket.io/?EIO=4&transport=polling&sid=unknown")["value"]
    assert found == {"error": "TypeError"}


@pytest.mark.parametrize("credentials", [False, True])
@pytest.mark.parametrize("transports", TRANSPORTS)
def test_a_listed_origin_connects(
    visit: Visit, page: str, open_to_page: Server, transports: str, credentials: bool
) -> None:
    options = {"transports": TRANSPORTS[transports], "auth": {"token": TOKEN}, "withCredentials": credentials}
    result = visit(CONNECT, url=open_to_page.url, options=options, upgrade=transports == "upgrade")["value"]
    assert result["kind"] == "connect", result
    assert result["transport"] == ("polling" if transports == "polling" else "websocket")
    assert result["whoami"]["subject"] == "u-1"
    assert open_to_page.wait_for_event("socketguard.connection.accepted")["origin"] == page


def test_a_refusal_is_readable_over_polling(visit: Visit, open_to_page: Server) -> None:
    result = visit(CONNECT, url=open_to_page.url, options={"transports": ["polling"]})["value"]
    assert (result["kind"], result["message"]) == ("connect_error", "Authentication required")
    assert result["data"]["code"] == "token_missing"


def test_the_preflight_needs_no_token(visit: Visit, open_to_page: Server) -> None:
    # Any header of one's own makes the browser ask with OPTIONS first, without that header.
    options = {"transports": ["polling"], "extraHeaders": {"Authorization": f"Bearer {TOKEN}", "X-Client": "1"}}
    found = visit(CONNECT, url=open_to_page.url, options=options)
    assert found["value"]["kind"] == "connect", found
    assert found["value"]["whoami"]["subject"] == "u-1"
    assert '"OPTIONS /socket.io/' in open_to_page.output()
    assert not open_to_page.events("socketguard.handshake.rejected", reason="origin_not_allowed")


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("EIO=4&transport=polling&sid=unknown", 400, "session_unknown"),
        ("EIO=3&transport=polling", 400, "protocol_version"),
        ("EIO=4&transport=carrier-pigeon", 400, "transport_unknown"),
        ("EIO=4&transport=polling&j=0", 400, "jsonp_not_supported"),
    ],
)
@pytest.mark.parametrize("credentials", ["omit", "include"])
def test_the_guards_own_answers_are_readable(
    visit: Visit, open_to_page: Server, query: str, status: int, code: str, credentials: str
) -> None:
    url = f"{open_to_page.url}/socket.io/?{query}"
    found = visit(FETCH, url=url, options={"credentials": credentials})["value"]
    assert found["status"] == status
    assert found["body"]["code"] == code
    assert set(found["body"]) == {"code", "message", "retry", "ref"}


@pytest.mark.parametrize(
    ("method", "query"),
    [
        ("GET", "EIO=4&transport=polling"),
        ("GET", "EIO=4&transport=polling&sid=unknown"),
        ("GET", "EIO=3&transport=polling"),
        ("OPTIONS", "EIO=4&transport=polling"),
    ],
)
def test_no_cors_header_is_doubled(open_to_page: Server, page: str, method: str, query: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", open_to_page.port, timeout=PATIENCE)
    with contextlib.closing(connection):
        headers = {
            "Origin": page,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "x-client",
        }
        connection.request(method, "/socket.io/?" + query, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
    assert answer.headers.get_all("Access-Control-Allow-Origin") == [page]
    assert answer.headers.get_all("Access-Control-Allow-Credentials") == ["true"]
    if body.startswith(b"0{"):
        sid = body.decode().split('"sid":"')[1].split('"')[0]
        closing = http.client.HTTPConnection("127.0.0.1", open_to_page.port, timeout=PATIENCE)
        with contextlib.closing(closing):
            closing.request("POST", f"/socket.io/?{query}&sid={sid}", b"1", {"Origin": page})
            assert closing.getresponse().status == 200
