"""The HTTP side of a verifier: Starlette, FastAPI."""

from __future__ import annotations

import json
from typing import Any

import jwt
import jwt.api_jwt
import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.authentication import AuthenticationBackend, AuthenticationError
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from socketguard.connection import Identity
from socketguard.errors import ConfigurationError, RejectCode, TokenError
from socketguard.tokens.auth import JWTAuth
from tests.tokens.minting import DOWN, NOW, OTHER_SECRET, RSA_NEXT, KeyServer, claims, make, mint, publish, signed


def starlette_client(auth: JWTAuth) -> TestClient:
    async def whoami(request: Request) -> JSONResponse:
        return JSONResponse({"user": request.user.display_name, "scopes": request.auth.scopes})

    middleware = [Middleware(AuthenticationMiddleware, backend=auth, on_error=auth.on_error)]
    return TestClient(
        Starlette(routes=[Route("/", whoami, methods=["GET", "POST"])], middleware=middleware),
        base_url="https://crm.example.com",
    )


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


class TestStarlette:
    def test_a_good_token(self) -> None:
        response = starlette_client(make()).get("/", headers=bearer(mint(scope="b a")))
        assert (response.status_code, response.json()) == (200, {"user": "ann", "scopes": ["a", "b", "authenticated"]})

    @pytest.mark.parametrize("headers", [{}, {"Authorization": "Basic dXNlcjpwYXNz"}, {"Authorization": "Bearer"}])
    def test_no_token_is_anonymous(self, headers: dict[str, str]) -> None:
        response = starlette_client(make()).get("/", headers=headers)
        assert (response.status_code, response.json()) == (200, {"user": "", "scopes": []})

    @pytest.mark.parametrize(
        ("token", "code", "retry", "message"),
        [
            ("rubbish", "token_malformed", "login", "Malformed token"),
            (mint(exp=1), "token_expired", "refresh", "Token has expired"),
            (mint(nbf=NOW + 99), "token_not_yet_valid", "backoff", "Token is not valid yet"),
            (jwt.encode(claims(), OTHER_SECRET), "token_invalid", "login", "Invalid token"),
        ],
    )
    def test_a_bad_token(self, token: str, code: str, retry: str, message: str) -> None:
        response = starlette_client(make()).get("/", headers=bearer(token))
        assert response.status_code == 401
        assert response.json() == {"code": code, "message": message, "retry": retry}
        assert response.headers["www-authenticate"] == (f'Bearer error="invalid_token", error_description="{message}"')

    def test_the_header_counts_whatever_socketio_uses(self) -> None:
        client = starlette_client(make(sources=("payload",)))
        assert client.get("/", headers=bearer(mint())).json()["user"] == "ann"

    def test_a_query_parameter_only_where_named(self) -> None:
        assert starlette_client(make()).get("/", params={"t": mint()}).json()["user"] == ""
        assert starlette_client(make(sources=("query:t",))).get("/", params={"t": mint()}).json()["user"] == "ann"

    def test_a_cookie_counts_for_the_same_origin_only(self) -> None:
        client = starlette_client(make(sources=("payload", "header", "cookie:session")))
        cookie = {"Cookie": f"session={mint()}"}
        same = client.post("/", headers={**cookie, "Origin": "https://CRM.example.com"})
        assert same.json()["user"] == "ann"
        others = ("https://evil.example", "null", "https://crm.example.com.evil.example", "https://crm.example.com:1")
        for origin in others:
            response = client.post("/", headers={**cookie, "Origin": origin})
            assert (response.status_code, response.json()["code"]) == (401, "token_missing")
            assert response.headers["www-authenticate"] == 'Bearer realm="api"'
        assert client.post("/", headers=cookie).status_code == 401
        assert client.get("/", headers={**cookie, **bearer(mint(sub="bob"))}).json()["user"] == "bob"

    async def test_a_cookie_without_a_host_to_compare(self) -> None:
        auth = make(sources=("cookie:c",))
        scope = {"type": "http", "headers": [(b"origin", b"https://"), (b"cookie", f"c={mint()}".encode())]}
        with pytest.raises(AuthenticationError) as caught:
            await auth.authenticate(HTTPConnection(scope))
        error = caught.value.args[0]
        assert (error.code, error.detail) == (RejectCode.TOKEN_MISSING, "cookie_cross_origin")

    async def test_the_exception_carries_the_reason(self) -> None:
        auth = make()
        assert isinstance(auth, AuthenticationBackend)
        headers = [(b"authorization", f"Bearer {mint(exp=1)}".encode())]
        with pytest.raises(AuthenticationError, match=r"^Token has expired$") as caught:
            await auth.authenticate(HTTPConnection({"type": "websocket", "headers": headers}))
        assert isinstance(caught.value.__cause__, TokenError)
        assert caught.value.args == (caught.value.__cause__,)

    @pytest.mark.parametrize("exc", [AuthenticationError("of another backend"), AuthenticationError(), ValueError("x")])
    def test_other_exceptions_say_nothing(self, exc: Exception) -> None:
        response = JWTAuth.on_error(HTTPConnection({"type": "http", "headers": []}), exc)
        assert (response.status_code, json.loads(bytes(response.body))["code"]) == (401, "token_invalid")

    def test_a_fault_of_the_service_is_no_challenge(self) -> None:
        error = TokenError(RejectCode.INTERNAL_ERROR, "unexpected_error")
        response = JWTAuth.on_error(HTTPConnection({"type": "http", "headers": []}), AuthenticationError(error))
        assert (response.status_code, "www-authenticate" in response.headers) == (500, False)


class TestPublishedKeys:
    def test_they_are_fetched(self) -> None:
        server = KeyServer()
        for client in (starlette_client(publish(server)), fastapi_client(publish(server))):
            assert client.get("/", headers=bearer(signed())).json()["user"] == "ann"
        assert len(server.asked) == 2

    def test_an_outage_is_no_fault_of_the_client(self) -> None:
        server = KeyServer()
        server.answer = DOWN
        response = starlette_client(publish(server)).get("/", headers=bearer(signed()))
        assert response.status_code == 503
        retry_after = response.json()["retry_after"]
        said = {"code": "keys_unavailable", "message": "Authentication is temporarily unavailable", "retry": "backoff"}
        assert response.json() == {**said, "retry_after": retry_after}
        assert retry_after >= 1
        assert response.headers["retry-after"] == str(retry_after)
        assert "www-authenticate" not in response.headers
        response = fastapi_client(publish(server)).get("/", headers=bearer(signed()))
        assert (response.status_code, int(response.headers["retry-after"]) >= 1) == (503, True)

    def test_a_key_that_nobody_published(self) -> None:
        response = starlette_client(publish(KeyServer())).get("/", headers=bearer(signed(RSA_NEXT, "two")))
        assert (response.status_code, response.json()["code"]) == (401, "token_invalid")
        assert "retry_after" not in response.json()


def fastapi_client(auth: JWTAuth, *scopes: str) -> TestClient:
    app = FastAPI()

    @app.get("/")
    async def read(identity: Identity = Depends(auth.requires(*scopes))) -> dict[str, Any]:  # noqa: B008
        return {"user": identity.subject}

    return TestClient(app)


class TestFastAPI:
    def test_a_good_token(self) -> None:
        for scopes in ((), ("crm:read",), ("crm:read", "crm:write")):
            response = fastapi_client(make(), *scopes).get("/", headers=bearer(mint(scope="crm:write crm:read")))
            assert (response.status_code, response.json()) == (200, {"user": "ann"})

    def test_the_request_is_no_parameter_of_the_api(self) -> None:
        schema = fastapi_client(make()).get("/openapi.json").json()
        assert "parameters" not in schema["paths"]["/"]["get"]

    @pytest.mark.parametrize("headers", [{}, {"Authorization": "Basic dXNlcjpwYXNz"}])
    def test_no_token(self, headers: dict[str, str]) -> None:
        response = fastapi_client(make(), "crm:read").get("/", headers=headers)
        assert (response.status_code, response.json()) == (401, {"detail": "Authentication required"})
        assert response.headers["www-authenticate"] == 'Bearer realm="api"'

    def test_a_bad_token(self) -> None:
        response = fastapi_client(make(), "crm:read").get("/", headers=bearer(mint(exp=1)))
        assert (response.status_code, response.json()) == (401, {"detail": "Token has expired"})
        challenge = 'Bearer error="invalid_token", error_description="Token has expired"'
        assert response.headers["www-authenticate"] == challenge

    @pytest.mark.parametrize("granted", ["", "crm", "crm:read", "CRM:WRITE crm:read", "crm:write"])
    def test_a_scope_too_few(self, granted: str) -> None:
        response = fastapi_client(make(), "crm:write", "crm:read").get("/", headers=bearer(mint(scope=granted)))
        assert (response.status_code, response.json()) == (403, {"detail": "Forbidden"})
        assert response.headers["www-authenticate"] == (
            'Bearer error="insufficient_scope", error_description="Forbidden", scope="crm:read crm:write"'
        )

    def test_a_scope_that_fits_no_header_is_left_out_of_it(self) -> None:
        client = fastapi_client(make(scope_claim="roles"), 'CRM "Admin"')
        assert client.get("/", headers=bearer(mint(roles=['CRM "Admin"']))).status_code == 200
        response = client.get("/", headers=bearer(mint()))
        assert (
            response.headers["www-authenticate"] == 'Bearer error="insufficient_scope", error_description="Forbidden"'
        )

    @pytest.mark.parametrize("scopes", [("",), (5,), (["a", "b"],)])
    def test_bad_scopes(self, scopes: Any) -> None:
        with pytest.raises(ConfigurationError, match="scopes"):
            make().requires(*scopes)

    async def test_in_plain_starlette(self) -> None:
        requires = make().requires("a")

        async def endpoint(request: Request) -> JSONResponse:
            return JSONResponse({"user": (await requires(request)).subject})

        client = TestClient(Starlette(routes=[Route("/", endpoint)]))
        assert client.get("/", headers=bearer(mint(scope="a"))).json() == {"user": "ann"}
        response = client.get("/", headers=bearer(mint(scope="b")))
        assert (response.status_code, response.text) == (403, "Forbidden")
