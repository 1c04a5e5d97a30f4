"""Pages in Chromium that call another origin: `crm.localhost` calls an API on 127.0.0.1."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from socketguard.testing import mint
from tests.e2e.issuing import Listener
from tests.e2e.support import ACCEPTED, HANDSHAKE_REJECTED, JS, TRANSPORTS, Driver, Server, request

TOKEN = mint("u-1", tenant_id="acme")

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


@pytest.fixture(scope="module")
def page() -> Iterator[str]:
    """The origin of a page with the client, and nothing else."""
    document = "<!doctype html><title>CRM</title><script src=/socket.io.js></script>"
    script = "text/javascript", (JS / "node_modules/socket.io-client/dist/socket.io.min.js").read_text()
    with contextlib.closing(
        Listener(lambda path: script if path == "/socket.io.js" else ("text/html", document))
    ) as it:
        yield f"http://crm.localhost:{it.port}"


@pytest.fixture(scope="module")
def strict(folder: Path) -> Iterator[Server]:
    with Server(folder, {}) as server:
        yield server


@pytest.fixture(scope="module", params=["nothing", "cors"])
def open_to_page(request: pytest.FixtureRequest, folder: Path, page: str) -> Iterator[Server]:
    """A server that lets the page in, alone or behind a CORSMiddleware."""
    with Server(folder, {"allowed_origins": [page], "outside": request.param}) as server:
        yield server


Visit = Callable[..., Any]


@pytest.fixture
def visit(browser: Driver, page: str) -> Visit:
    def visit(script: str, **argument: Any) -> Any:
        return browser.start({"page": page + "/", "script": script.strip(), "argument": argument}).result()["value"]

    return visit


def test_another_origin_is_refused_with_the_argument_to_paste(visit: Visit, page: str, strict: Server) -> None:
    for transports in ("polling", "websocket"):
        found = visit(CONNECT, url=strict.url, options={"transports": [transports], "auth": {"token": TOKEN}})
        # A browser hides the answer from a page that is not entitled to it.
        message = "xhr poll error" if transports == "polling" else "websocket error"
        assert (found["kind"], found["message"]) == ("connect_error", message)
        line = strict.wait_for_event(HANDSHAKE_REJECTED, transport=transports)
        assert (line["reason"], line["status"], line["origin"]) == ("origin_not_allowed", 403, page)
        assert f"allowed_origins=['{page}']" in line["hint"]
    assert not strict.events(ACCEPTED)
    hidden = visit(FETCH, url=strict.url + "/socket.io/?EIO=4&transport=polling&sid=unknown")
    assert hidden == {"error": "TypeError"}


@pytest.mark.parametrize("credentials", [False, True])
@pytest.mark.parametrize("transports", TRANSPORTS)
def test_a_listed_origin_connects(
    visit: Visit, page: str, open_to_page: Server, transports: str, credentials: bool
) -> None:
    options = {"transports": TRANSPORTS[transports], "auth": {"token": TOKEN}, "withCredentials": credentials}
    found = visit(CONNECT, url=open_to_page.url, options=options, upgrade=transports == "upgrade")
    assert found["kind"] == "connect", found
    assert found["transport"] == ("polling" if transports == "polling" else "websocket")
    assert found["whoami"]["subject"] == "u-1"
    assert open_to_page.wait_for_event(ACCEPTED)["origin"] == page


def test_a_refusal_is_readable_over_polling(visit: Visit, open_to_page: Server) -> None:
    found = visit(CONNECT, url=open_to_page.url, options={"transports": ["polling"]})
    assert (found["kind"], found["message"]) == ("connect_error", "Authentication required")
    assert found["data"]["code"] == "token_missing"


def test_the_preflight_needs_no_token(visit: Visit, open_to_page: Server) -> None:
    # Any header of one's own makes the browser ask with OPTIONS first, without that header.
    options = {"transports": ["polling"], "extraHeaders": {"Authorization": f"Bearer {TOKEN}", "X-Client": "1"}}
    found = visit(CONNECT, url=open_to_page.url, options=options)
    assert found["kind"] == "connect", found
    assert found["whoami"]["subject"] == "u-1"
    assert '"OPTIONS /socket.io/' in open_to_page.output()
    assert not open_to_page.events(HANDSHAKE_REJECTED, reason="origin_not_allowed")


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("EIO=4&transport=polling&sid=unknown", "session_unknown"),
        ("EIO=3&transport=polling", "protocol_version"),
        ("EIO=4&transport=carrier-pigeon", "transport_unknown"),
        ("EIO=4&transport=polling&j=0", "jsonp_not_supported"),
    ],
)
@pytest.mark.parametrize("credentials", ["omit", "include"])
def test_the_guards_own_answers_are_readable(
    visit: Visit, open_to_page: Server, query: str, code: str, credentials: str
) -> None:
    found = visit(FETCH, url=f"{open_to_page.url}/socket.io/?{query}", options={"credentials": credentials})
    assert (found["status"], found["body"]["code"]) == (400, code)
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
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-client"}
    answer = request(open_to_page.url, "/socket.io/?" + query, method, headers={"Origin": page, **asked})
    assert answer.headers.get_all("Access-Control-Allow-Origin") == [page]
    assert answer.headers.get_all("Access-Control-Allow-Credentials") == ["true"]
    if answer.body.startswith("0{"):
        sid = json.loads(answer.body[1:])["sid"]
        assert request(open_to_page.url, f"/socket.io/?{query}&sid={sid}", "POST", "1", {"Origin": page}).status == 200
