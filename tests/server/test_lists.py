"""Several credentials on one guard, functions of the application, and what goes wrong in them."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from typing import Any

import jwt
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from socketguard import (
    ANY,
    Authenticator,
    ConfigurationError,
    ConnectRequest,
    CredentialError,
    Identity,
    JWTAuth,
    Limits,
    NamespacePolicy,
    RejectCode,
    SocketGuard,
)
from socketguard.auth import APIKeyAuth, SessionAuth, quick
from socketguard.auth.credentials import Credentials
from socketguard.testing import TEST_SECRET, make_auth, mint
from tests.scripted import (
    CONNECT,
    CONNECT_ERROR,
    Client,
    Clock,
    Events,
    Guarded,
    Packet,
    guarded,
    joined_client,
    lines,
    token_at,
    until,
)
from tests.server.test_credentials import ORIGIN, SECRET, cookie
from tests.tokens.minting import RSA

KEY = "key-of-ann"


@quick
def lookup(digest: str) -> Identity | None:
    return Identity("ann") if digest == hashlib.sha256(KEY.encode()).hexdigest() else None


async def answer(case: Guarded, payload: Any = None, transport: str = "websocket", **headers: str) -> tuple[Any, Any]:
    """Who a client is, and by what; or the code with which it is refused."""
    client = await Client(case, transport, headers=headers).open()
    await client.send_packet(Packet(CONNECT, "/messages", payload))
    packet = await client.packet()
    if packet.kind == CONNECT_ERROR:
        return packet.data["data"]["code"], None
    identity = case.guard.identity(packet.data["sid"])
    return identity.subject, identity.credential


def cookie_of(subject: str, clock: Clock) -> str:
    return f"session={cookie({'user_id': subject}, clock.now)}"


class TestOrder:
    @pytest.mark.parametrize("turned", [False, True])
    async def test_explicit_ones_go_before_cookies_whatever_the_order(self, turned: bool, clock: Clock) -> None:
        auth = [SessionAuth(SECRET, clock=clock), APIKeyAuth(lookup), make_auth(clock=clock)]
        case = guarded(auth=auth[::-1] if turned else auth, allowed_origins=[ORIGIN])
        headers = {"cookie": cookie_of("cy", clock), "origin": ORIGIN}
        token = token_at(clock, subject="bob")
        assert await answer(case, **headers) == ("cy", "session")
        assert await answer(case, {"api_key": KEY}, **headers) == ("ann", "api_key")
        assert await answer(case, {"token": token}, **headers) == ("bob", "jwt")
        assert await answer(case) == ("token_missing", None)
        # What is there and bad is refused, and nobody else is asked.
        assert await answer(case, {"api_key": "another"}, **headers) == ("credential_invalid", None)
        assert await answer(case, {"token": "a.b.c"}, **headers) == ("token_malformed", None)

    async def test_a_function_is_asked_without_cookies_first(self, clock: Clock) -> None:
        seen: list[tuple[bool, bool]] = []

        async def by_cookie(request: ConnectRequest) -> Identity | None:
            seen.append((bool(request.cookies), "cookie" in request.headers))
            return Identity("from the cookie") if "who" in request.cookies else None

        case = guarded(auth=[by_cookie, make_auth(clock=clock)], allowed_origins=[ORIGIN])
        headers = {"cookie": "who=me", "origin": ORIGIN}
        assert await answer(case, {"token": token_at(clock, subject="bob")}, **headers) == ("bob", "jwt")
        assert seen == [(False, False)]
        seen.clear()
        assert await answer(case, **headers) == ("from the cookie", "by_cookie")
        assert seen == [(False, False), (True, True)]
        seen.clear()
        assert await answer(case) == ("token_missing", None)
        assert seen == [(False, False)]

    async def test_several_issuers_among_others(self) -> None:
        auth = [make_auth(issuer="a"), APIKeyAuth(lookup), make_auth(issuer="b")]
        case = guarded(auth=auth)
        for issuer in "ab":
            assert await answer(case, {"token": mint("bob", iss=issuer)}) == ("bob", "jwt")
        assert await answer(case, {"api_key": KEY}) == ("ann", "api_key")
        assert [kind.name for kind in Credentials(auth).kinds] == ["jwt", "api_key"]

    async def test_who_has_none_is_told_nothing_and_the_log_where_they_belong(self, events: Events) -> None:
        case = guarded(auth=[APIKeyAuth(lookup), make_auth()], logger=None)
        assert await answer(case, {"apikey": KEY}) == ("token_missing", None)
        (line,) = lines(events, "connection.rejected")
        assert line["received"] == ["apikey"]
        assert "payload:api_key" in line["expected"]
        assert KEY not in str(line)

    async def test_two_functions_of_one_name(self) -> None:
        def named() -> Any:
            async def same(request: ConnectRequest) -> None:
                return None

            return same

        assert [kind.name for kind in Credentials([named(), named()]).kinds] == ["same", "same-2"]

    async def test_a_function_that_is_called_like_tokens_is_told_from_them(self, clock: Clock) -> None:
        async def jwt(request: ConnectRequest) -> Identity | None:
            return Identity("by the function", expires_at=clock.now + 5) if request.headers.get("x-one") else None

        case = guarded(auth=[jwt, make_auth(clock=clock, leeway=60)], expiring_notice=None)
        assert await answer(case, {"token": token_at(clock)}) == ("user-1", "jwt")
        client = await Client(case, headers={"x-one": "1"}).open()
        await client.send_packet(Packet(CONNECT, "/messages", None))
        sid = (await client.packet()).data["sid"]
        assert case.guard.identity(sid).credential == "jwt-2"
        clock.passes(5)
        await client.expired()


class TestCookies:
    """Cookies count only where the handshake shows a page that may."""

    @pytest.fixture
    def case(self, clock: Clock) -> Guarded:
        return guarded(auth=SessionAuth(SECRET, clock=clock), allowed_origins=[ORIGIN], logger=None)

    @pytest.mark.parametrize(
        ("headers", "counts"),
        [
            ({"origin": ORIGIN}, True),
            ({"sec-fetch-site": "same-origin"}, True),
            ({}, False),
            ({"sec-fetch-site": "same-site"}, False),
            ({"sec-fetch-site": "none"}, False),
            ({"referer": f"{ORIGIN}/"}, False),
        ],
    )
    async def test_by_the_handshake(
        self, case: Guarded, clock: Clock, headers: dict[str, str], counts: bool, events: Events
    ) -> None:
        found = await answer(case, cookie=cookie_of("ann", clock), **headers)
        assert found == (("ann", "session") if counts else ("token_missing", None))
        if not counts:
            (line,) = lines(events, "connection.rejected")
            assert line["detail"] == "cookie_without_origin"
            assert "list the origin of the page" in line["hint"]

    async def test_by_the_post_that_carries_the_connect(self, case: Guarded, clock: Clock) -> None:
        """A same-origin GET has no Origin, and over plain HTTP no Fetch Metadata; the POST has one."""
        client = await Client(case, "polling", headers={"cookie": cookie_of("ann", clock)}).open()
        await client.post("40/messages,", headers={"origin": ORIGIN})
        assert (await client.packet()).kind == CONNECT
        other = await Client(case, "polling", headers={"cookie": cookie_of("ann", clock)}).open()
        await other.post("40/messages,")
        assert (await other.packet()).data["data"]["code"] == "token_missing"

    async def test_by_the_upgrade(self, case: Guarded, clock: Clock) -> None:
        client = await Client(case, "polling", headers={"cookie": cookie_of("ann", clock)}).open()
        client.options["headers"] = {"origin": ORIGIN}
        wire = await client.probe()
        await client.poll()
        await wire.send("5")
        await wire.send("40/messages,")
        client.wire = wire
        assert (await client.packet()).kind == CONNECT

    async def test_of_another_origin_there_is_no_session_at_all(self, case: Guarded, clock: Clock) -> None:
        headers = {"cookie": cookie_of("ann", clock), "origin": "https://evil.example"}
        found = await Client(case, "polling", headers=headers).http("GET", "EIO=4&transport=polling")
        assert found.status == 403

    @pytest.mark.parametrize("origins", [None, "*"])
    async def test_a_function_sees_none_without_a_list(self, origins: Any, clock: Clock) -> None:
        seen: list[Any] = []

        async def look(request: ConnectRequest) -> None:
            seen.append((request.cookies, request.headers.get("cookie"), [n for n, _ in request.scope["headers"]]))

        case = guarded(auth=look, allowed_origins=origins)
        await answer(case, cookie="a=b", origin="http://testserver")
        ((cookies, header, names),) = seen
        assert (cookies, header) == ({}, None)
        assert b"cookie" not in names
        assert b"origin" in names

    async def test_thousands_of_cookies_are_not_taken_apart(self, case: Guarded, clock: Clock) -> None:
        many = ";".join(f"c{number}=1" for number in range(10_000))
        session = cookie_of("ann", clock)
        assert await answer(case, cookie=f"{session};{many}", origin=ORIGIN) == ("ann", "session")
        assert await answer(case, cookie=f"{many};{session}", origin=ORIGIN) == ("token_missing", None)

    def test_a_cookie_that_is_declared_needs_a_list(self) -> None:
        for auth in (SessionAuth(SECRET), make_auth(sources=("payload", "cookie:t"))):
            for origins in (None, "*"):
                with pytest.raises(ConfigurationError, match="list the origins") as caught:
                    guarded(auth=[auth], allowed_origins=origins)
                assert caught.value.option == "allowed_origins"


class TestFunctions:
    @pytest.mark.parametrize(("count", "found"), [(200, "v"), (300, None)])
    async def test_very_many_parameters_are_none(self, count: int, found: str | None) -> None:
        seen: list[Any] = []

        async def look(request: ConnectRequest) -> None:
            seen.append(request.query_params.get("k"))

        client = await Client(guarded(auth=look), query="&k=v" + "&a" * count).open()
        await client.connect(token=None)
        await client.packet()
        assert seen == [found]

    async def test_what_a_request_says(self) -> None:
        found: list[ConnectRequest] = []

        async def look(request: ConnectRequest) -> Identity:
            found.append(request)
            return Identity("ann")

        case = guarded(auth=look, allowed_origins=[ORIGIN])
        client = await Client(case, headers={"cookie": "a=1; b=2", "origin": ORIGIN, "X-One": "1"}, query="&k=v").open()
        await client.send_packet(Packet(CONNECT, "/messages", {"some": ["thing"]}))
        assert (await client.packet()).kind == CONNECT
        (request,) = found
        assert request.auth == {"some": ["thing"]}
        assert request.cookies == {"a": "1", "b": "2"}
        assert request.headers["x-one"] == "1"
        assert request.query_params["k"] == "v"
        assert (request.namespace, request.client_address) == ("/messages", "127.0.0.1")
        assert request.scope["type"] == "websocket"
        assert repr(request) == "<ConnectRequest /messages>"

    async def test_an_ordinary_one_runs_in_a_thread_and_a_quick_one_does_not(self) -> None:
        threads: list[Any] = []

        def ordinary(request: ConnectRequest) -> Identity:
            threads.append(threading.current_thread())
            return Identity("ann")

        for function in (ordinary, quick(lambda request: ordinary(request))):
            assert (await answer(guarded(auth=function)))[0] == "ann"
        assert threads[0] is not threading.main_thread()
        assert threads[1] is threading.main_thread()

    async def test_an_object_with_identify(self) -> None:
        class Anybody:
            async def identify(self, request: ConnectRequest) -> Identity:
                return Identity("somebody")

        assert await answer(guarded(auth=Anybody())) == ("somebody", "Anybody")

    @pytest.mark.parametrize(
        ("returned", "text"),
        [
            ("ann", "returned a str"),
            (True, "returned a bool"),
            (Identity(None), "without a subject"),
            (Identity(""), "without a subject"),
            (Identity(1.5), "returned a subject that is a float"),  # type: ignore[arg-type]
            (Identity("ann", []), "returned claims that are a list"),  # type: ignore[arg-type]
            (Identity("ann", scopes=["a"]), "returned scopes that are no set"),  # type: ignore[arg-type]
            (Identity("ann", scopes=frozenset({1})), "returned scopes that are no set"),  # type: ignore[arg-type]
            (Identity("ann", issuer=1), "returned issuer that is no text"),  # type: ignore[arg-type]
            (Identity("ann", token_id=b"x"), "returned token_id that is no text"),  # type: ignore[arg-type]
            (Identity("ann", expires_at=float("nan")), "returned expires_at that is no number"),
            (Identity("ann", issued_at="now"), "returned issued_at that is no number"),  # type: ignore[arg-type]
            (Identity("ann", expires_at=True), "returned expires_at that is no number"),
        ],
    )
    @pytest.mark.parametrize("asynchronous", [False, True])
    async def test_what_is_no_identity_lets_nobody_in(
        self, returned: Any, text: str, asynchronous: bool, events: Events, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def later(request: ConnectRequest) -> Any:
            return returned

        case = guarded(auth=later if asynchronous else quick(lambda request: returned), logger=None)
        assert await answer(case) == ("internal_error", None)
        (line,) = lines(events, "connection.rejected")
        assert (line["detail"], line["error"], line["level"]) == ("admission", "TypeError", "error")
        assert f"identify() {text}" in caplog.text or f"identify() returned an identity {text}" in caplog.text
        assert case.guard.connections() == []

    async def test_a_number_is_a_subject_and_a_set_of_scopes_will_do(self) -> None:
        async def identify(request: ConnectRequest) -> Identity:
            return Identity(7, scopes={"read"})  # type: ignore[arg-type]

        case = guarded(auth=identify, namespaces=[NamespacePolicy("/messages", scopes={"read"})])
        assert await answer(case) == ("7", "identify")

    @pytest.mark.parametrize("kind", ["coroutine", "thread", "quick", "stop", "cancelled"])
    async def test_an_exception_ends_the_transport_and_is_said_once(self, kind: str, events: Events) -> None:
        fails = True

        def ordinary(request: ConnectRequest) -> Identity:
            if fails:
                raise StopIteration if kind == "stop" else OSError("no database")
            return Identity("ann")

        async def later(request: ConnectRequest) -> Identity:
            if kind == "cancelled" and fails:
                raise asyncio.CancelledError
            return ordinary(request)

        functions = {"coroutine": later, "cancelled": later, "quick": quick(lambda request: ordinary(request))}
        case = guarded(auth=functions.get(kind, ordinary), logger=None)
        for _ in range(2):
            client = await Client(case).open()
            await client.connect(token=None)
            assert await client.closed() == 4503
            await asyncio.sleep(0.06)
        await Client(case).open()
        # Few may try while it lasts.
        assert (await Client(case, "polling").http("GET", "EIO=4&transport=polling")).status == 503
        (line,) = lines(events, "credential.unavailable")
        expected = {"stop": "RuntimeError", "cancelled": "CancelledError"}.get(kind, "OSError")
        assert line["error"] == expected
        fails = False
        await asyncio.sleep(0.06)
        assert (await answer(case))[0] == "ann"
        await until(lambda: lines(events, "credential.recovered"))

    async def test_one_that_hangs(self, clock: Clock, events: Events) -> None:
        asked = asyncio.Event()

        async def hang(request: ConnectRequest) -> None:
            asked.set()
            await asyncio.Event().wait()

        case = guarded(auth=hang, admission_timeout=5, logger=None)
        client = await Client(case).open()
        await client.connect(token=None)
        await asked.wait()
        clock.passes(5)
        assert await client.closed() == 4503
        (line,) = lines(events, "credential.unavailable")
        assert line["error"] == "TimeoutError"

    async def test_a_refusal_says_that_it_answers_again(self, events: Events) -> None:
        results: list[Any] = [OSError(), CredentialError("no"), OSError(), CredentialError("no")]

        async def identify(request: ConnectRequest) -> None:
            raise results.pop(0)

        case = guarded(auth=[identify, make_auth()], logger=None)
        for code in (None, "credential_invalid"):
            client = await Client(case).open()
            await client.connect(token=None)
            if code is None:
                assert await client.closed() == 4503
            else:
                assert (await client.packet()).data["data"]["code"] == code
        case = guarded(auth=quick(lambda request: identify(request).send(None)), logger=None)
        client = await Client(case).open()
        await client.connect(token=None)
        assert await client.closed() == 4503
        await asyncio.sleep(0.06)
        assert (await answer(case))[0] == "credential_invalid"
        await until(lambda: len(lines(events, "credential.recovered")) == 2)

    async def test_codes_of_the_application(self, events: Events) -> None:
        async def identify(request: ConnectRequest) -> None:
            raise CredentialError("expired yesterday\n", code=RejectCode.TOKEN_EXPIRED)

        case = guarded(auth=identify, logger=None)
        assert (await answer(case))[0] == "token_expired"
        (line,) = lines(events, "connection.rejected")
        assert (line["detail"], line["app_message"]) == ("credential_refused", "expired yesterday\\u000a")
        with pytest.raises(ConfigurationError, match="write one of account_disabled"):
            CredentialError("no", code=RejectCode.DRAINING)
        assert str(CredentialError()) == "Invalid credentials"

    async def test_authorize_may_refuse_with_one(self) -> None:
        async def authorize(identity: Identity, connection: Any) -> bool:
            raise CredentialError("blocked", code=RejectCode.ACCOUNT_DISABLED)

        case = guarded(namespaces=[NamespacePolicy("/messages", authorize=authorize)])
        assert (await answer(case, {"token": mint()}))[0] == "account_disabled"

    async def test_authorize_that_is_quick(self) -> None:
        case = guarded(namespaces=[NamespacePolicy("/messages", authorize=quick(lambda *_: True))])
        assert await answer(case, {"token": mint()}) == ("user-1", "jwt")

    async def test_who_asks_again_while_an_authenticator_is_asked(self) -> None:
        asked: list[Any] = []
        release = asyncio.Event()

        async def identify(request: ConnectRequest) -> Identity:
            asked.append(request.auth)
            await release.wait()
            return Identity("ann")

        case = guarded(auth=identify)
        client = await Client(case).open()
        for number in range(2):
            await client.send_packet(Packet(CONNECT, "/messages", {"n": number}))
            await until(lambda number=number: len(asked) == number + 1)
        release.set()
        assert (await client.packet()).kind == CONNECT
        assert len(case.guard.connections()) == 1

    async def test_a_session_whose_function_waits(self, clock: Clock) -> None:
        async def of_session(session: Any) -> Identity:
            await asyncio.sleep(0)
            return Identity(session["user_id"])

        auth = SessionAuth(SECRET, identity=of_session, clock=clock)
        case = guarded(auth=auth, allowed_origins=[ORIGIN], limits=Limits(failures_per_address="1/hour"))
        for _ in range(2):
            await answer(case)
        # Its signature holds, so that the budget of the address does not keep it out.
        assert await answer(case, cookie=cookie_of("ann", clock), origin=ORIGIN) == ("ann", "session")

    async def test_over_its_budget_nothing_is_begun(self) -> None:
        asked: list[str] = []

        async def identify(request: ConnectRequest) -> None:
            asked.append(str(request.auth))
            raise CredentialError("no")

        case = guarded(auth=identify, limits=Limits(failures_per_address="2/hour"))
        for number in range(5):
            await answer(case, {"n": number})
        assert len(asked) == 2


class TestRefresh:
    async def test_a_credential_of_another_kind_is_somebody_elses(self, clock: Clock) -> None:
        case = guarded(auth=[APIKeyAuth(lookup), make_auth(clock=clock)])
        client = await Client(case).open()
        await client.send_packet(Packet(CONNECT, "/messages", {"api_key": KEY}))
        assert (await client.packet()).kind == CONNECT
        found = await client.call("/messages", "socketguard:refresh", {"token": token_at(clock, subject="ann")})
        assert (found["code"], found["retry"]) == ("subject_mismatch", "never")
        found = await client.call("/messages", "socketguard:refresh", {"api_key": KEY})
        assert found == {"ok": True, "expires_in": None}
        found = await client.call("/messages", "socketguard:refresh", {})
        assert found["code"] == "token_missing"


class TestRevocation:
    async def test_what_is_missing_is_said(self) -> None:
        case = guarded(auth=[APIKeyAuth(lookup), make_auth(issuer="a", max_lifetime=3600)])
        with pytest.raises(ConfigurationError, match="credentials of api_key have no known lifetime"):
            await case.guard.revoke(subject="ann")
        assert await case.guard.revoke(subject="ann", issuer="a") == 0
        assert await answer(case, {"token": mint("ann", iss="a")}) == ("token_revoked", None)
        assert await answer(case, {"api_key": KEY}) == ("ann", "api_key")

    async def test_all_kinds_that_live_for_a_known_time(self, clock: Clock) -> None:
        keys = APIKeyAuth(
            lambda digest: Identity("ann", issued_at=clock.now - 60, expires_at=clock.now + 60), max_lifetime=120
        )
        keys.clock = clock
        case = guarded(auth=[keys, make_auth(issuer="a", max_lifetime=3600, clock=clock)])
        client = await Client(case).open()
        await client.send_packet(Packet(CONNECT, "/messages", {"api_key": KEY}))
        assert (await client.packet()).kind == CONNECT
        other, _ = await joined_client(case, token=token_at(clock, subject="ann", iss="a"))
        assert await case.guard.revoke(subject="ann") == 2
        await client.sent_away("/messages", "token_revoked")
        await other.sent_away("/messages", "token_revoked")


class TestConfiguration:
    @pytest.mark.parametrize(
        ("auth", "text"),
        [
            ([make_auth(), JWTAuth(TEST_SECRET, algorithms=["HS256"])], "no issuer"),
            ([APIKeyAuth(lookup), APIKeyAuth(lookup)], "both look in payload:api_key"),
            ([APIKeyAuth(lookup, payload_key="token"), make_auth()], "both look in payload:token"),
            (
                [APIKeyAuth(lookup, header="Authorization", payload_key=None), make_auth()],
                "both look in header:auth",
            ),
            ([SessionAuth(SECRET), make_auth(sources=("cookie:session",))], "both look in cookie:session"),
            (APIKeyAuth, "is the class APIKeyAuth"),
            (lambda: None, "a function of one argument"),
            ([make_auth(), 5], "a list of something else"),
        ],
    )
    def test_what_can_not_work(self, auth: Any, text: str) -> None:
        with pytest.raises(ConfigurationError, match=text):
            guarded(auth=auth, allowed_origins=[ORIGIN])

    @pytest.mark.parametrize(
        ("values", "text"),
        [
            ({"places": ("token",)}, "places has the entry 'token'"),
            ({"places": "header:x"}, "places must be a list"),
            ({"places": (5,)}, "places has the entry 5"),
            ({"name": "a\nb"}, "is no plain text"),
            ({"name": 5}, "is no plain text"),
        ],
    )
    def test_an_authenticator_that_is_declared_wrongly(self, values: dict[str, Any], text: str) -> None:
        async def identify(self: Any, request: ConnectRequest) -> None: ...

        kind = type("Wrong", (Authenticator,), {**values, "identify": identify})
        with pytest.raises(ConfigurationError, match=text):
            guarded(auth=kind())

    def test_equal_ones_share_a_guard(self) -> None:
        keys = APIKeyAuth(lookup)
        case = guarded(auth=[keys, make_auth()])
        again = SocketGuard.protect(case.server, auth=[keys, make_auth()], logger=False)
        assert again.describe() == case.guard.describe()
        with pytest.raises(ConfigurationError, match="other options"):
            SocketGuard.protect(case.server, auth=[APIKeyAuth(lookup), make_auth()], logger=False)
        assert Credentials(keys) != keys
        assert hash(Credentials(keys)) == hash(Credentials(keys))
        assert repr(Credentials([keys, make_auth()])) == "<Credentials api_key, jwt>"

    def test_it_is_described(self) -> None:
        async def by_function(request: ConnectRequest) -> None: ...

        described = guarded(auth=[APIKeyAuth(lookup), by_function, make_auth()]).guard.describe()["auth"]
        keys, function, jwt = described["credentials"]
        assert keys == {"credential": "api_key", "places": ["payload:api_key", "header:x-api-key"]}
        assert function == {"credential": "by_function", "places": []}
        assert jwt["algorithms"] == ["HS256"]


class TestHTTPRoutes:
    def app(self, guard: SocketGuard) -> Starlette:
        auth: Any = guard.auth
        needed = auth.requires()
        admin = auth.requires("admin")

        async def me(request: Request) -> JSONResponse:
            return JSONResponse({"subject": (await needed(request)).subject})

        async def only_admins(request: Request) -> JSONResponse:
            return JSONResponse({"subject": (await admin(request)).subject})

        async def backend(request: Request) -> JSONResponse:
            return JSONResponse({"user": request.user.display_name})

        routes = [Route("/me", me, methods=["GET", "POST"]), Route("/admin", only_admins), Route("/backend", backend)]
        middleware = [Middleware(AuthenticationMiddleware, backend=auth, on_error=auth.on_error)]
        return Starlette(routes=routes, middleware=middleware)

    async def test_every_credential(self, clock: Clock) -> None:
        async def slow(request: ConnectRequest) -> Identity | None:
            await asyncio.sleep(0)
            if request.headers.get("x-fails"):
                raise OSError
            return Identity("cy") if request.headers.get("x-slow") else None

        auth = [APIKeyAuth(lookup), make_auth(clock=clock), SessionAuth(SECRET, clock=clock), slow]
        guard = guarded(auth=auth, allowed_origins=[ORIGIN]).guard
        client = TestClient(self.app(guard), base_url="https://api.example.com")

        def me(path: str = "/me", method: str = "GET", **headers: str) -> Any:
            found = client.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
            return found.json() if found.status_code == 200 else found.status_code

        assert me(x_api_key=KEY) == {"subject": "ann"}
        assert me("/backend", x_api_key=KEY) == {"user": "ann"}
        assert me(authorization=f"Bearer {token_at(clock, subject='bob')}") == {"subject": "bob"}
        assert me(x_slow="1") == {"subject": "cy"}
        assert me() == 401
        assert me(x_api_key="another") == 401
        assert me("/admin", x_api_key=KEY) == 403
        assert me(x_fails="1") == 503
        session = cookie_of("dan", clock)
        for shown in (
            {"origin": ORIGIN},
            {"origin": "https://api.example.com"},
            {"sec_fetch_site": "same-origin"},
            {"sec_fetch_site": "none"},
            {},
        ):
            assert me(cookie=session, **shown) == {"subject": "dan"}, shown
        for shown in ({"origin": "https://evil.example"}, {"sec_fetch_site": "cross-site"}, {"origin": "null"}):
            assert me(cookie=session, **shown) == 401, shown
        assert me(method="POST", cookie=session) == 401
        assert me(method="POST", cookie=session, origin=ORIGIN) == {"subject": "dan"}
        answer = client.get("/me", headers={"x-api-key": "another"})
        assert answer.headers["www-authenticate"] == 'Bearer realm="api"'
        await guard.auth.close()  # type: ignore[union-attr]
        only_keys: Any = guarded(auth=APIKeyAuth(lookup)).guard.auth
        await only_keys.close()

    async def test_one_that_takes_too_long(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def hang(request: ConnectRequest) -> None:
            await asyncio.Event().wait()

        async def fetch(url: str) -> bytes:
            await asyncio.Event().wait()
            return b""

        monkeypatch.setattr("socketguard.auth.credentials._PATIENCE", 0.01)
        client = TestClient(self.app(guarded(auth=hang).guard))
        assert client.get("/me").status_code == 503
        keys = JWTAuth(
            jwks_url="https://k.example/", fetch=fetch, algorithms=["RS256"], issuer=ANY, audience=ANY, jwks_timeout=60
        )
        case = guarded(auth=[APIKeyAuth(lookup), keys])
        token = jwt.encode({"sub": "ann", "exp": 2**32}, RSA, algorithm="RS256")
        found = TestClient(self.app(case.guard)).get("/me", headers={"authorization": f"Bearer {token}"})
        assert (found.status_code, found.headers["retry-after"]) == (503, "5")

    async def test_a_token_in_a_cookie_counts_from_pages_of_the_list(self) -> None:
        auth = make_auth(sources=("cookie:t",))
        guard = guarded(auth=auth, allowed_origins=[ORIGIN]).guard
        assert guard.auth is auth
        client = TestClient(self.app(guard), base_url="https://api.example.com")
        for origin, status in ((ORIGIN, 200), ("https://api.example.com", 200), ("https://evil.example", 401)):
            found = client.post("/me", headers={"cookie": f"t={mint()}", "origin": origin})
            assert found.status_code == status
