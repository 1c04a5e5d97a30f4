"""The examples of ``docs/authentication.md``: applications that sign people in, and clients with what they got."""

from __future__ import annotations

import asyncio
import contextlib
import http.cookies
import json
import re
import secrets
import sqlite3
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlencode

import pytest

from socketguard.testing import mint
from tests.e2e.support import (
    ACCEPTED,
    CLOSED,
    PATIENCE,
    REJECTED,
    ROOT,
    Answer,
    Driver,
    JavaScript,
    Server,
    free_port,
    python_client,
    request,
    until,
    wait_until,
)

EXAMPLES = ROOT / "examples" / "authentication"
SECRET = secrets.token_urlsafe(32)
BOTH = ["polling", "websocket"]
transports = pytest.mark.parametrize("transport", [*BOTH, "upgrade"])


@contextlib.contextmanager
def example(name: str, folder: Path, **env: str) -> Iterator[Server]:
    """An example under uvicorn, whose pages are on the origin that it lists."""
    port = free_port()
    env = {"ORIGINS": f"http://127.0.0.1:{port}", "SECRET_KEY": SECRET, "DATABASE": str(folder / f"{name}.db"), **env}
    app = f"examples.authentication.{name}:app"
    with Server(folder, {}, app=app, port=port, env=env) as server:
        yield server


def cookies_of(*answers: Answer) -> str:
    """What a browser would send after these answers."""
    jar: dict[str, str] = {}
    for answer in answers:
        for line in answer.headers.get_all("set-cookie") or []:
            for name, morsel in http.cookies.SimpleCookie(line).items():
                jar[name] = morsel.coded_value
                if "1970" in morsel["expires"]:
                    del jar[name]
    return "; ".join(f"{name}={value}" for name, value in jar.items())


def page(server: Server, cookies: str) -> dict[str, str]:
    """The headers of a page of the server's own origin."""
    return {"Cookie": cookies, "Origin": server.url}


async def who(server: Server, transport: str, headers: Mapping[str, str] | None = None, auth: Any = None) -> Any:
    """Who a client of python-socketio is, or the code with which it is refused."""
    async with python_client(server, transports=transport, headers=dict(headers or {}), auth=auth) as client:
        for refusal in client.of("connect_error"):
            return refusal["data"]["code"]
        return await client.call("whoami")


class TestAPIKeys:
    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, folder: Path) -> Iterator[Server]:
        with example("api_keys", folder, KEYS="key-of-ann:ann,key-of-bob:bob") as server:
            yield server

    @transports
    async def test_in_the_payload_and_in_a_header(self, server: Server, transport: str) -> None:
        assert await who(server, transport, auth={"api_key": "key-of-ann"}) == "ann"
        assert await who(server, transport, {"X-API-Key": "key-of-bob"}) == "bob"
        assert await who(server, transport, auth={"api_key": "key-of-eve"}) == "credential_invalid"
        assert await who(server, transport) == "token_missing"
        assert "key-of-" not in server.output()

    async def test_a_key_that_was_taken_away(self, server: Server, folder: Path) -> None:
        assert await who(server, "websocket", auth={"api_key": "key-of-bob"}) == "bob"
        with sqlite3.connect(folder / "api_keys.db") as database:
            database.execute("DELETE FROM keys WHERE owner = 'bob'")
        assert await who(server, "websocket", auth={"api_key": "key-of-bob"}) == "credential_invalid"


def sign_in(server: Server, path: str, fields: Mapping[str, str], cookies: str = "", **headers: str) -> Answer:
    form = {"Content-Type": "application/x-www-form-urlencoded", "Origin": server.url, **headers}
    return request(server.url, path, "POST", urlencode(fields), {**form, **({"Cookie": cookies} if cookies else {})})


class TestStarlette:
    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, folder: Path) -> Iterator[Server]:
        with example("starlette_session", folder) as server:
            yield server

    @transports
    async def test_who_signs_in_with_the_form(self, server: Server, transport: str) -> None:
        answer = sign_in(server, "/login", {"user": "ann", "password": "secret"})
        assert answer.status == 303
        headers = page(server, cookies_of(answer))
        assert await who(server, transport, headers) == "ann"
        # Without a page of the list it is no credential, nor is a cookie of somebody else's making.
        assert await who(server, transport, {"Cookie": headers["Cookie"]}) == "token_missing"
        assert await who(server, transport, page(server, "session=eyJ1c2VyX2lkIjogImFubiJ9.aaaa.bbbb")) == (
            "credential_invalid"
        )
        assert await who(server, transport, page(server, "")) == "token_missing"

    async def test_who_signs_out_is_out(self, server: Server) -> None:
        cookies = cookies_of(sign_in(server, "/login", {"user": "ann", "password": "secret"}))
        async with python_client(server, headers=page(server, cookies)) as client:
            assert await client.call("whoami") == "ann"
            answer = sign_in(server, "/logout", {}, cookies)
            await until(lambda: client.of("disconnect"))
            assert client.of("event:socketguard:closing")[0]["message"] == "You have signed out"
        assert await who(server, "websocket", page(server, cookies_of(answer))) == "token_missing"

    async def test_in_a_browser(self, server: Server, browser: Driver, folder: Path) -> None:
        """The same in Chromium: a page of the origin, and a page of another one that tries to ride on the cookie."""
        client = (ROOT / "tests/js/node_modules/socket.io-client/dist/socket.io.min.js").read_text(encoding="utf-8")
        with a_page(f"<script>{client}</script>") as stranger:
            found = browser.start(
                {
                    "drive": BROWSER,
                    "argument": {"url": server.url, "stranger": stranger, "client": client},
                }
            ).result()
        assert found["before"] == {"polling": "token_missing", "websocket": "token_missing"}
        assert found["after"] == {"polling": "ann", "websocket": "ann"}
        # The browser sends the cookie along, since both pages are on one host, and the server takes it from neither.
        assert set(found["stranger"].values()) <= {"xhr poll error", "websocket error"}
        assert len(found["stranger"]) == 2
        accepted = server.events(ACCEPTED)
        assert {line["subject"] for line in accepted} == {"ann"}
        assert {line.get("credential") for line in accepted} == {"session"}


BROWSER = """
async (browser, { url, stranger, client }) => {
  const ask = async (page, transport) => page.evaluate(([url, transport]) => new Promise((resolve) => {
    const socket = io(`${url}/messages`, { transports: [transport], forceNew: true, reconnection: false,
                                            withCredentials: true });
    const end = (found) => { socket.close(); resolve(found); };
    socket.on("connect", () => socket.emit("whoami", end));
    socket.on("connect_error", (error) => end(error.data?.code ?? error.message));
  }), [url, transport]);
  const both = async (page) => {
    const found = {};
    for (const transport of ["polling", "websocket"]) found[transport] = await ask(page, transport);
    return found;
  };
  const page = await browser.newPage();
  await page.goto(url);
  await page.addScriptTag({ content: client });
  const before = await both(page);
  await page.fill("[name=user]", "ann");
  await page.fill("[name=password]", "secret");
  await page.click("button");
  await page.waitForSelector("#user");
  await page.addScriptTag({ content: client });
  const after = await both(page);
  const other = await browser.newPage();
  await other.goto(stranger);
  const found = await both(other);
  await page.close();
  await other.close();
  await browser.clearCookies();
  return { before, after, stranger: found };
}
"""


@contextlib.contextmanager
def a_page(body: str) -> Iterator[str]:
    """A page of another origin."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: Any) -> None: ...

    with _serving(Handler) as url:
        yield url


@contextlib.contextmanager
def _serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class TestDjango:
    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, folder: Path) -> Iterator[Server]:
        script = [sys.executable, str(EXAMPLES / "django_session.py")]
        env = {"DATABASE": str(folder / "django_session.db"), "PATH": ""}
        subprocess.run(script, check=True, timeout=PATIENCE, env=env, cwd=folder)
        with example("django_session", folder, REVALIDATE="1") as server:
            yield server

    def signed_in(self, server: Server) -> str:
        form = request(server.url, "/login/")
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', form.body)
        assert token is not None
        cookies = cookies_of(form)
        fields = {"username": "ann", "password": "secret", "csrfmiddlewaretoken": token[1]}
        answer = sign_in(server, "/login/", fields, cookies, Referer=f"{server.url}/login/")
        assert answer.status == 302, answer
        return cookies_of(form, answer)

    @transports
    async def test_who_signs_in_with_the_login_view(self, server: Server, transport: str) -> None:
        cookies = self.signed_in(server)
        assert await who(server, transport, page(server, cookies)) == {"subject": "1", "name": "ann"}
        assert await who(server, transport, {"Cookie": cookies}) == "token_missing"
        assert await who(server, transport, page(server, "sessionid=made-up")) == "token_missing"
        line = server.events(ACCEPTED)[-1]
        assert (line["credential"], len(line["token_id"])) == ("session", 16)
        session = re.search(r"sessionid=(\w+)", cookies)
        assert session is not None
        assert session[1] not in server.output()

    async def test_who_signs_out_and_who_is_made_inactive(self, server: Server, folder: Path) -> None:
        cookies = self.signed_in(server)
        async with python_client(server, headers=page(server, cookies)) as client:
            csrf = re.search(r"csrftoken=(\w+)", cookies)
            assert csrf is not None
            fields = {"csrfmiddlewaretoken": csrf[1]}
            assert sign_in(server, "/logout/", fields, cookies).status in (200, 302)
            await until(lambda: client.of("disconnect"))
        assert await who(server, "websocket", page(server, cookies)) == "token_missing"
        cookies = self.signed_in(server)
        async with python_client(server, headers=page(server, cookies)) as client:
            with sqlite3.connect(folder / "django_session.db") as database:
                database.execute("UPDATE auth_user SET is_active = 0")
            await until(lambda: client.of("disconnect"))
            assert client.of("event:socketguard:closing")[0]["code"] == "account_disabled"
        assert await who(server, "websocket", page(server, cookies)) == "credential_invalid"
        with sqlite3.connect(folder / "django_session.db") as database:
            database.execute("UPDATE auth_user SET is_active = 1")
        assert (await who(server, "websocket", page(server, cookies)))["name"] == "ann"


class TestFastAPIUsers:
    @transports
    async def test_the_cookie_of_its_database_strategy(self, folder: Path, transport: str) -> None:
        with example("fastapi_users_cookie", folder, DATABASE=str(folder / f"users-{transport}.db")) as server:
            email, password = "ann@example.com", "a good password"
            body = json.dumps({"email": email, "password": password})
            made = request(server.url, "/auth/register", "POST", body, {"Content-Type": "application/json"})
            assert made.status == 201, made
            answer = sign_in(server, "/auth/login", {"username": email, "password": password})
            assert answer.status == 204, answer
            headers = page(server, cookies_of(answer))
            assert await who(server, transport, headers) == email
            assert await who(server, transport, page(server, "crm=made-up")) == "credential_invalid"
            assert await who(server, transport, {"Cookie": headers["Cookie"]}) == "token_missing"
            assert request(server.url, "/me", headers=headers).json["email"] == email
            assert request(server.url, "/me", headers=page(server, "crm=made-up")).status == 401
            evil = {**headers, "Origin": "https://evil.example"}
            assert request(server.url, "/me", headers=evil).status == 401
            async with python_client(server, transports=transport, headers=dict(headers)) as client:
                assert sign_in(server, "/auth/logout", {}, headers["Cookie"]).status == 204
                assert await client.call("whoami") == email  # a recipe to end it is in the docs
            assert await who(server, transport, headers) == "credential_invalid"


class TestFlaskLogin:
    def cookie(self) -> str:
        """What Flask-Login gives to a browser that signs in."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import flask_login
        from flask import Flask

        flask = Flask("a_flask_application")
        flask.config.update(SECRET_KEY=SECRET)
        manager = flask_login.LoginManager(flask)
        user = type("User", (flask_login.UserMixin,), {"id": "ann"})()
        manager.user_loader(lambda id_: user if id_ == "ann" else None)

        @flask.post("/login")
        def login() -> str:
            flask_login.login_user(user)
            return "ok"

        answer = flask.test_client().post("/login")
        return str(answer.headers["Set-Cookie"]).partition(";")[0]

    @transports
    async def test_its_session_cookie(self, folder: Path, transport: str) -> None:
        with example("flask_cookie", folder) as server:
            cookie = self.cookie()
            assert await who(server, transport, page(server, cookie)) == "ann"
            assert await who(server, transport, page(server, f"{cookie}x")) == "credential_invalid"
            assert await who(server, transport, {"Cookie": cookie}) == "token_missing"


class Issuer(BaseHTTPRequestHandler):
    """An introspection endpoint that is slow, fails and revokes."""

    known: ClassVar[dict[str, dict[str, Any]]] = {}
    status, delay, asked = 200, 0.0, 0

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
        type(self).asked += 1
        if self.headers["authorization"] != "Basic Y3JtOnNlY3JldA==":
            self.send_error(401)
            return
        time.sleep(self.delay)
        body = json.dumps(self.known.get(form["token"][0], {"active": False})).encode()
        with contextlib.suppress(OSError):  # whoever asked waits no longer
            self.send_response(self.status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


class TestIntrospection:
    @pytest.fixture
    def issuer(self) -> Iterator[str]:
        Issuer.known = {"opaque-ann": {"active": True, "sub": "ann", "exp": int(time.time()) + 3600, "jti": "t-1"}}
        Issuer.status, Issuer.delay, Issuer.asked = 200, 0.0, 0
        with _serving(Issuer) as url:
            yield url

    @pytest.fixture
    def server(self, issuer: str, folder: Path) -> Iterator[Server]:
        env = {"INTROSPECTION_URL": f"{issuer}/introspect", "CLIENT_ID": "crm", "CLIENT_SECRET": "secret"}
        with example("introspection", folder, CACHE="0", TIMEOUT="1", **env) as server:
            yield server

    @transports
    async def test_a_token_that_it_knows(self, server: Server, transport: str) -> None:
        assert await who(server, transport, auth={"token": "opaque-ann"}) == "ann"
        assert await who(server, transport, {"Authorization": "Bearer opaque-ann"}) == "ann"
        assert await who(server, transport, auth={"token": "unknown"}) == "token_invalid"
        assert "opaque-ann" not in server.output()

    async def test_it_revokes_it_fails_and_it_is_slow(self, server: Server, js: JavaScript) -> None:
        assert await who(server, "websocket", auth={"token": "opaque-ann"}) == "ann"
        Issuer.known = {}
        assert await who(server, "websocket", auth={"token": "opaque-ann"}) == "token_invalid"
        Issuer.known = {"opaque-ann": {"active": True, "sub": "ann"}}
        for failure in ({"status": 500}, {"delay": 1.5}):
            for name, value in failure.items():
                setattr(Issuer, name, value)
            before = len(server.events("socketguard.credential.unavailable"))
            # A stock client comes back by itself until it is let in.
            pending = js.start(
                server,
                auth={"token": "opaque-ann"},
                steps=[{"wait": "connect"}],
                reconnection=True,
                reconnectionDelay=100,
            )
            wait_until(lambda b=before: len(server.events("socketguard.credential.unavailable")) > b, server.output)
            Issuer.status, Issuer.delay = 200, 0.0
            assert pending.result()["steps"]
        found = server.events("socketguard.credential.unavailable")
        assert len(found) == len(server.events("socketguard.credential.recovered")) == 2
        server.prints_tracebacks = True


class TestSigningInLater:
    @transports
    async def test_with_both_clients(self, folder: Path, js: JavaScript, transport: str) -> None:
        with example("guests", folder, JWT_SECRET=SECRET) as server:
            guest = {"subject": None, "rooms": ["guests"], "kept": "a cart"}
            member = {"subject": "ann", "rooms": ["user:ann"], "kept": None}
            token = mint("ann", key=SECRET)
            options: dict[str, Any] = {"transports": transport, "headers": {}}
            async with python_client(server, "/shop", **options) as client:
                await client.sio.emit("keep", "a cart", namespace="/shop")
                assert await client.call("whoami", namespace="/shop") == guest
                answer = await client.call("socketguard:refresh", {"token": token}, namespace="/shop")
                assert (answer["code"], answer["retry"]) == ("not_signed_in", "now")
                assert await client.call("whoami", namespace="/shop") == guest
            async with python_client(server, "/shop", token=token, **options) as client:
                assert await client.call("whoami", namespace="/shop") == member
            lines = [line.get("subject") for line in server.events(CLOSED)]
            assert lines[:1] == [None]
            assert server.events(REJECTED) == []
            found = json.loads(
                (
                    await asyncio.to_thread(
                        subprocess.run,
                        ["node", "--input-type=module", "-e", SIGN_IN, server.url, token, transport],
                        cwd=ROOT / "tests" / "js",
                        capture_output=True,
                        text=True,
                        check=True,
                        timeout=PATIENCE,
                    )
                ).stdout
            )
            assert found == [guest, member]


SIGN_IN = """
import { io } from "socket.io-client";
const [url, token, transport] = process.argv.slice(1);
let current = null;
const transports = transport === "upgrade" ? ["polling", "websocket"] : [transport];
const socket = io(`${url}/shop`, { transports, auth: (cb) => cb(current ? { token: current } : {}) });
const found = [];
socket.on("connect", () => {
  if (current === null) socket.emit("keep", "a cart");
  socket.emit("whoami", (answer) => {
    found.push(answer);
    if (current !== null) { console.log(JSON.stringify(found)); socket.close(); return; }
    current = token;
    socket.disconnect().connect();
  });
});
"""
