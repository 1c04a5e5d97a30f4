"""The ready-made authenticators by themselves: their options, and what they make of what is shown."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from socketguard import ConfigurationError, ConnectRequest, CredentialError, Identity, TokenError
from socketguard.auth import APIKeyAuth, DjangoSessionAuth, IntrospectionAuth, SessionAuth, quick
from socketguard.deadline import blocks, call
from socketguard.testing import FakeClock
from socketguard.tokens.fetch import FetchError
from tests.server.test_credentials import SECRET, cookie


def asked(auth: Any = None, cookies: str = "", **headers: str) -> ConnectRequest:
    raw = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    request = ConnectRequest([*raw, (b"cookie", cookies.encode())] if cookies else raw, b"", {}, auth)
    request.page_shown = True
    request.show_cookies()
    return request


async def whose(auth: Any, request: ConnectRequest) -> Any:
    """The identity, or the words of the refusal."""
    try:
        found = auth.identify(request)
        return await found if hasattr(found, "__await__") else found
    except CredentialError as exc:
        return exc.fields.get("app_message", exc.detail)


@quick
def nobody(value: Any) -> None:
    """Knows no key and no session."""


@pytest.mark.parametrize(
    ("make", "option", "text"),
    [
        (lambda: APIKeyAuth(None), "lookup", "write a function of the digest"),  # type: ignore[arg-type]
        (lambda: APIKeyAuth(lambda: None), "lookup", "can't be called with"),  # type: ignore[misc, arg-type]
        (lambda: APIKeyAuth(nobody, header=""), "header", 'write header="x-api-key"'),
        (lambda: APIKeyAuth(nobody, payload_key=5), "payload_key", "payload_key is 5"),  # type: ignore[arg-type]
        (lambda: APIKeyAuth(nobody, header=None, payload_key=None), "header", "no key is looked for"),
        (lambda: APIKeyAuth(nobody, max_lifetime=-1), "max_lifetime", "write seconds"),
        (lambda: APIKeyAuth(nobody, lookups=1), "lookups", "no option of APIKeyAuth"),  # type: ignore[call-arg]
        (lambda: SessionAuth(""), "secret_key", "must hold non-empty strings"),
        (lambda: SessionAuth([]), "secret_key", "secret_key is empty"),
        (lambda: SessionAuth(SECRET, cookie=""), "cookie", "write a name"),
        (lambda: SessionAuth(SECRET, identity=""), "identity", "write a name"),
        (lambda: SessionAuth(SECRET, identity=5), "identity", "write a function of the session"),  # type: ignore[arg-type]
        (lambda: SessionAuth(SECRET, max_age=0), "max_age", "write seconds"),
        (lambda: SessionAuth(SECRET, clock=5), "clock", "returns seconds since the epoch"),  # type: ignore[arg-type]
        (lambda: IntrospectionAuth(), "url", "write url="),
        (lambda: IntrospectionAuth("https://x.example/", ask=nobody), "url", "write url="),  # type: ignore[arg-type]
        (lambda: IntrospectionAuth("https://x.example/"), "client_id", "client_id is missing"),
        (lambda: IntrospectionAuth("https://x.example/", client_id="a"), "client_secret", "client_secret is missing"),
        (
            lambda: IntrospectionAuth("http://x.example/", client_id="a", client_secret="b"),
            "url",
            "must begin with https",
        ),
        (lambda: IntrospectionAuth(ask=5), "ask", "write async"),  # type: ignore[arg-type]
        (lambda: IntrospectionAuth(ask=nobody, cache=31), "cache", "at most 30"),  # type: ignore[arg-type]
        (lambda: IntrospectionAuth(ask=nobody, sources=("x",)), "sources", "unknown entry"),  # type: ignore[arg-type]
        (lambda: IntrospectionAuth(ask=nobody, max_lifetime=0), "max_lifetime", "write seconds"),  # type: ignore[arg-type]
    ],
)
def test_an_option_that_can_not_work_is_named(make: Callable[[], Any], option: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text) as caught:
        make()
    assert caught.value.option == option


class TestAPIKeys:
    async def test_what_the_look_up_gets(self) -> None:
        digests: list[str] = []

        async def lookup(digest: str) -> Identity:
            digests.append(digest)
            return Identity("ann")

        auth = APIKeyAuth(lookup, header="X-Key")
        assert (await whose(auth, asked({"api_key": "k"}))).subject == "ann"
        assert (await whose(auth, asked(x_key="k"))).subject == "ann"
        assert (await whose(auth, asked({"api_key": ""}, x_key="other"))).subject == "ann"
        sha256 = [hashlib.sha256(key).hexdigest() for key in (b"k", b"k", b"other")]
        assert digests == sha256
        assert await whose(auth, asked({"x_key": "k"})) is None
        assert repr(auth) == "<APIKeyAuth payload:api_key, header:X-Key>"

    async def test_only_where_it_is_looked_for(self) -> None:
        assert await whose(APIKeyAuth(nobody, header=None), asked(x_api_key="k")) is None
        assert await whose(APIKeyAuth(nobody, payload_key=None), asked({"api_key": "k"})) is None
        assert APIKeyAuth(nobody, max_lifetime=60).max_lifetime == 60

    @pytest.mark.parametrize("key", ["k" * 513, 5, ["k"], "schlüssel"])
    async def test_what_is_no_key(self, key: Any) -> None:
        assert "no text of at most 512 characters" in await whose(APIKeyAuth(nobody), asked({"api_key": key}))

    async def test_one_that_nobody_has(self) -> None:
        async def later(digest: str) -> None: ...

        for lookup in (nobody, later, lambda digest: None):
            assert await whose(APIKeyAuth(lookup), asked({"api_key": "k"})) == "there is no such key"


class TestSessions:
    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock(1_800_000_000.0)

    async def test_who_is_signed_in(self, clock: FakeClock) -> None:
        auth = SessionAuth(["the one before", SECRET], cookie="sid", identity="uid", max_age=60, clock=clock)
        value = cookie({"uid": 7, "theme": "dark"}, clock.now)
        found = await whose(auth, asked(cookies=f"a=b; sid={value}"))
        assert (found.subject, dict(found.claims)) == (7, {"uid": 7, "theme": "dark"})
        assert (found.issued_at, found.expires_at) == (clock.now, clock.now + 60)
        old = cookie({"uid": "ann"}, clock.now, "the one before")
        assert (await whose(auth, asked(cookies=f"sid={old}"))).subject == "ann"
        clock.move(60)
        assert await whose(auth, asked(cookies=f"sid={value}")) is None
        assert repr(auth) == "<SessionAuth cookie:sid>"

    @pytest.mark.parametrize("session", [{}, {"theme": "dark"}, {"user_id": None}, {"user_id": ""}])
    async def test_who_is_not(self, session: dict[str, Any], clock: FakeClock) -> None:
        auth = SessionAuth(SECRET, clock=clock)
        assert await whose(auth, asked(cookies=f"session={cookie(session, clock.now)}")) is None
        assert await whose(auth, asked()) is None

    async def test_what_is_no_cookie_of_the_middleware(self, clock: FakeClock) -> None:
        auth = SessionAuth(SECRET, clock=clock)
        signer = auth._signer
        wrong = "the cookie is not signed with secret_key"
        for value in ("x", "a.b.c", signer.sign(b"no base64!").decode(), signer.sign(base64.b64encode(b"{")).decode()):
            assert await whose(auth, asked(cookies=f"session={value}")) == wrong
        deep = base64.b64encode(b"[" * 9000).decode()
        assert await whose(auth, asked(cookies=f"session={signer.sign(deep).decode()}")) in (wrong, None)
        assert await whose(auth, asked(cookies=f"session={'x' * 20_000}")) == "the cookie is too long"
        assert await whose(auth, asked(cookies=f"session={signer.sign(base64.b64encode(b'[1]')).decode()}")) is None

    async def test_a_function_says_whose_it_is(self, clock: FakeClock) -> None:
        async def later(session: Any) -> Identity | None:
            await asyncio.sleep(0)
            return Identity(session["who"], expires_at=clock.now + 10) if "who" in session else None

        functions: list[Any] = [later, lambda session: Identity(session["who"]) if "who" in session else None]
        for function, end in zip([*functions, quick(functions[1])], (10, 60, 60), strict=True):
            auth = SessionAuth(SECRET, identity=function, max_age=60, clock=clock)
            found = await whose(auth, asked(cookies=f"session={cookie({'who': 'ann'}, clock.now)}"))
            assert (found.subject, found.expires_at - clock.now, found.issued_at) == ("ann", end, clock.now)
            assert await whose(auth, asked(cookies=f"session={cookie({'a': 1}, clock.now)}")) is None

    def test_without_itsdangerous(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "itsdangerous", None)
        with pytest.raises(ConfigurationError, match="pip install itsdangerous"):
            SessionAuth(SECRET)


class TestDjango:
    @pytest.fixture(scope="class")
    @classmethod
    def users(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
        django = pytest.importorskip("django")
        from django.conf import settings

        database = str(tmp_path_factory.mktemp("django") / "django.db")
        if not settings.configured:
            apps = ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"]
            engine = {"ENGINE": "django.db.backends.sqlite3", "NAME": database}
            settings.configure(SECRET_KEY="x" * 50, INSTALLED_APPS=apps, DATABASES={"default": engine})
            django.setup()
        from django.contrib.auth import get_user_model
        from django.core.management import call_command

        call_command("migrate", verbosity=0)
        yield get_user_model().objects
        from django.db import connections

        connections.close_all()

    def signed_in(self, user: Any) -> str:
        """The key of a session as Django's login makes it."""
        from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
        from django.contrib.sessions.backends.db import SessionStore

        session = SessionStore()
        session[SESSION_KEY] = str(user.pk)
        session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
        session[HASH_SESSION_KEY] = user.get_session_auth_hash()
        session.save()
        return str(session.session_key)

    def test_who_is_signed_in(self, users: Any) -> None:
        user = users.create_user("ann", password="secret", is_staff=True)
        auth, key = DjangoSessionAuth(), self.signed_in(user)
        found = auth.identify(asked(cookies=f"sessionid={key}"))
        assert found is not None
        assert (found.subject, found.claims["username"], found.claims["is_staff"]) == (str(user.pk), "ann", True)
        assert found.token_id == hashlib.sha256(key.encode()).hexdigest()[:16]
        assert found.expires_at is not None
        assert 0 < found.expires_at - time.time() <= 14 * 24 * 3600
        assert blocks(auth.identify)
        assert repr(auth) == "<DjangoSessionAuth cookie:sessionid>"
        assert auth.identify(asked(cookies="sessionid=nobodys")) is None
        assert auth.identify(asked()) is None
        user.set_password("another")
        user.save()
        with pytest.raises(CredentialError) as caught:
            auth.identify(asked(cookies=f"sessionid={key}"))
        assert "changed its password" in str(caught.value.fields)

    def test_an_identity_of_ones_own(self, users: Any) -> None:
        user = users.create_user("bob", password="secret")
        key = self.signed_in(user)
        soon = time.time() + 60
        functions: list[tuple[Any, Any]] = [
            (lambda user: Identity(user.username, token_id="t", expires_at=soon), ("bob", "t", soon)),
            (lambda user: None, None),
        ]
        for function, expected in functions:
            found = DjangoSessionAuth(identity=function).identify(asked(cookies=f"sessionid={key}"))
            assert (found and (found.subject, found.token_id, found.expires_at)) == expected

    def test_where_it_can_not_be_used(self, users: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ConfigurationError, match="write a function of the user"):
            DjangoSessionAuth(identity="x")  # type: ignore[arg-type]
        monkeypatch.setitem(sys.modules, "django.conf", None)
        with pytest.raises(ConfigurationError, match="needs Django:"):
            DjangoSessionAuth()
        without: Any = type("Module", (), {"settings": property(lambda self: 1 / 0)})()
        monkeypatch.setitem(sys.modules, "django.conf", without)
        with pytest.raises(ConfigurationError, match=r"call django.setup\(\)"):
            DjangoSessionAuth()


class TestIntrospection:
    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock(1_800_000_000.0)

    async def test_what_an_answer_says(self, clock: FakeClock) -> None:
        now = clock.now
        answers: dict[str, Any] = {
            "full": {"active": True, "sub": "ann", "scope": "a b", "iss": "i", "jti": "j", "iat": now, "exp": now + 9},
            "user": {"active": True, "username": "bob", "scope": ["a"], "iss": 5},
            "client": {"active": True, "client_id": "machine"},
        }

        async def ask(token: str) -> Any:
            return answers[token]

        auth = IntrospectionAuth(ask=ask, clock=clock, max_lifetime=60)
        found = await whose(auth, asked({"token": "full"}))
        assert (found.subject, found.scopes, found.issuer, found.token_id) == ("ann", {"a", "b"}, "i", "j")
        assert (found.issued_at, found.expires_at, found.credential) == (now, now + 9, "introspection")
        found = await whose(auth, asked(authorization="Bearer user"))
        assert (found.subject, found.scopes, found.issuer) == ("bob", frozenset(), None)
        assert (await whose(auth, asked({"token": "client"}))).subject == "machine"
        assert await whose(auth, asked()) is None
        assert auth.max_lifetime == 60
        assert "payload:token" in repr(auth)

    @pytest.mark.parametrize(
        ("answer", "detail"),
        [
            ({"active": False}, "not_active"),
            ({"active": True, "sub": "ann", "exp": 1_799_999_999}, "expired"),
            ({"active": True}, "claim_missing"),
            ({"active": True, "sub": 5}, "claim_missing"),
            ({"active": True, "sub": "ann", "aud": "another"}, "audience_mismatch"),
            ({"active": True, "sub": "ann"}, "audience_mismatch"),
            ({"active": True, "sub": "ann", "aud": ["crm", "mail"]}, None),
        ],
    )
    async def test_what_is_refused(self, answer: Any, detail: str | None, clock: FakeClock) -> None:
        async def ask(token: str) -> Any:
            return answer

        audience = "crm" if detail in ("audience_mismatch", None) else None
        auth = IntrospectionAuth(ask=ask, clock=clock, audience=audience)
        for _ in range(2):  # the second out of the cache
            found = await whose(auth, asked({"token": "t"}))
            assert found == detail or (detail is None and found.subject == "ann")

    @pytest.mark.parametrize(
        "answer", [None, [], {}, {"active": "true"}, {"active": True, "exp": "soon"}, {"active": True, "iat": True}]
    )
    async def test_what_is_no_answer_is_nobodys_fault(self, answer: Any) -> None:
        async def ask(token: str) -> Any:
            return answer

        with pytest.raises(FetchError):
            await whose(IntrospectionAuth(ask=ask), asked({"token": "t"}))

    @pytest.mark.parametrize("token", ["x" * 8193, "ü", "a\x00b"])
    async def test_what_is_no_token_is_not_asked_about(self, token: str) -> None:
        async def ask(token: str) -> Any:
            raise AssertionError

        assert await whose(IntrospectionAuth(ask=ask), asked({"token": token})) == "not_a_token"

    async def test_equal_questions_are_asked_once_and_kept_for_a_moment(self, clock: FakeClock) -> None:
        questions: list[str] = []
        release = asyncio.Event()

        async def ask(token: str) -> Any:
            questions.append(token)
            await release.wait()
            return {"active": True, "sub": "ann", "exp": clock.now + 20}

        auth = IntrospectionAuth(ask=ask, clock=clock)
        waiting = [asyncio.ensure_future(whose(auth, asked({"token": "t"}))) for _ in range(3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        waiting[0].cancel()
        release.set()
        assert [found.subject for found in (await asyncio.gather(*waiting, return_exceptions=True))[1:]] == ["ann"] * 2
        assert (await whose(auth, asked({"token": "t"}))).subject == "ann"
        assert questions == ["t"]
        clock.move(20)  # when it has expired, before the 30 seconds are over
        assert (await whose(auth, asked({"token": "t"}))).subject == "ann"
        assert questions == ["t", "t"]
        fresh = IntrospectionAuth(ask=ask, clock=clock, cache=0)
        for _ in range(2):
            await whose(fresh, asked({"token": "t"}))
        assert len(questions) == 4

    async def test_no_more_answers_are_kept_than_a_bound(
        self, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("socketguard.auth.introspection._CACHED", 3)

        async def ask(token: str) -> Any:
            return {"active": False}

        auth = IntrospectionAuth(ask=ask, clock=clock)
        for number in range(9):
            with pytest.raises(TokenError):
                await auth.identify(asked({"token": f"t{number}"}))  # type: ignore[misc]
        assert len(auth._known) == 3

    async def test_over_http(self) -> None:
        seen: list[Any] = []

        class Endpoint(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                seen.append((self.headers["authorization"], body))
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"no JSON" if "token=bad" in body else b'{"active": true, "sub": "ann"}')

            def log_message(self, *_: Any) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/introspect"
            auth = IntrospectionAuth(url, client_id="a b", client_secret="c:d", allow_http=True)
            assert (await whose(auth, asked({"token": "t+/"}))).subject == "ann"
            with pytest.raises(FetchError, match="no JSON"):
                await whose(auth, asked({"token": "bad"}))
        finally:
            await asyncio.to_thread(server.shutdown)
            thread.join()
            server.server_close()
        credentials = base64.b64encode(b"a+b:c%3Ad").decode()
        assert seen[0] == (f"Basic {credentials}", "token=t%2B%2F&token_type_hint=access_token")


async def test_a_function_that_stops() -> None:
    def stop() -> None:
        raise StopIteration

    with pytest.raises(RuntimeError, match="StopIteration"):
        await call(stop)


def test_what_blocks() -> None:
    class Object:
        def __call__(self) -> None: ...

    class Later:
        async def __call__(self) -> None: ...

    async def later() -> None: ...

    assert blocks(lambda: None)
    assert blocks(Object())
    assert blocks(sqlite3.connect)
    assert not blocks(quick(lambda: None))
    known = quick({"a": 1}.get)
    assert not blocks(known)
    assert call(known, "a") == 1
    assert not blocks(quick(APIKeyAuth(nobody).describe))
    assert not blocks(later)
    assert not blocks(Later())
