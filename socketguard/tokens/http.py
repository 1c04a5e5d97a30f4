"""The HTTP side of authentication: a Starlette authentication backend, and dependencies for FastAPI.

So that the HTTP routes of a service take the same credentials as its Socket.IO namespaces.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Collection, Coroutine
from typing import Any, cast

from starlette.authentication import AuthCredentials, AuthenticationBackend, AuthenticationError, BaseUser
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response

from socketguard.authenticator import ConnectRequest, http_request
from socketguard.check import names
from socketguard.connection import Identity
from socketguard.errors import REPLIES, CredentialError, RejectCode, TokenError

_SCOPE_TOKEN = re.compile(r"[!#-\[\]-~]+")


class Backend(AuthenticationBackend):
    """What whoever checks credentials does for HTTP requests."""

    origins: Collection[str] = ()
    """Origins whose pages may bring cookies, besides the service's own."""

    @abstractmethod
    async def identify_http(self, request: ConnectRequest) -> Identity | None:
        """Say whose the credential of an HTTP request is; None where there is none."""

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        """Authenticate an HTTP or WebSocket request, for Starlette's ``AuthenticationMiddleware``.

        Give it `on_error` as well: ``Middleware(AuthenticationMiddleware, backend=auth, on_error=auth.on_error)``.

        Args:
            conn: the request.

        Returns:
            The scopes (with ``authenticated``) and the identity, or None when the request has no token.

        Raises:
            AuthenticationError: its only argument, and its cause, is the `CredentialError`.
        """
        try:
            identity = await self.identify_http(http_request(conn.scope, self.origins))
        except CredentialError as error:
            raise AuthenticationError(error) from error
        if identity is None:
            return None
        # Identity has what Starlette reads of a user, without inheriting from it.
        return AuthCredentials([*sorted(identity.scopes), "authenticated"]), cast("BaseUser", identity)

    @staticmethod
    def on_error(conn: HTTPConnection, exc: Exception) -> Response:
        """Answer a refused request with its code and ``WWW-Authenticate`` (RFC 6750 section 3).

        While keys can't be had, the answer is 503 with ``Retry-After`` (RFC 9110 section 10.2.3).

        Args:
            conn: the request.
            exc: what `authenticate` raised.
        """
        error = exc.args[0] if exc.args else None
        if not isinstance(error, CredentialError):
            error = TokenError(RejectCode.TOKEN_INVALID, "unexpected_error")
        reply = REPLIES[error.code]
        again = {name: value for name, value in error.fields.items() if name == "retry_after"}
        content = {"code": error.code.value, "message": reply.message, "retry": reply.retry, **again}
        return JSONResponse(content, reply.http_status, _headers(error))

    def requires(self, *scopes: str) -> Callable[[Request], Coroutine[Any, Any, Identity]]:
        """Make a dependency for HTTP routes: ``Depends(auth.requires("crm:read"))`` in FastAPI.

        Args:
            scopes: what the token must grant, all of it; without any, a valid token is enough.

        Returns:
            An async function from the request to the `Identity`. It raises Starlette's ``HTTPException``: 401 without
            a valid token, 403 when a scope is missing, with ``WWW-Authenticate``; 503 while keys can't be had.

        Raises:
            ConfigurationError: a scope is no string, or empty.
        """
        needed = frozenset(names(scopes, "scopes", example='auth.requires("crm:read")'))

        async def dependency(request: Request) -> Identity:
            try:
                identity = await self.identify_http(http_request(request.scope, self.origins))
                if identity is None:
                    raise TokenError(RejectCode.TOKEN_MISSING, "token_missing")
                if missing := needed - identity.scopes:
                    fields = {"expected": sorted(needed), "missing": sorted(missing)}
                    raise TokenError(RejectCode.INSUFFICIENT_SCOPE, "scope_missing", **fields)
            except CredentialError as error:
                status = REPLIES[error.code].http_status
                raise HTTPException(status, str(error), _headers(error)) from error
            return identity

        return dependency


def _headers(error: CredentialError) -> dict[str, str]:
    """``WWW-Authenticate`` or ``Retry-After``. A request without credentials gets no error (RFC 6750 section 3.1)."""
    if error.code in (RejectCode.TOKEN_MISSING, RejectCode.CREDENTIAL_INVALID, RejectCode.ACCOUNT_DISABLED):
        return {"WWW-Authenticate": 'Bearer realm="api"'}
    if REPLIES[error.code].http_status not in (401, 403):
        # The service has a problem, not the token.
        return {"Retry-After": str(error.fields["retry_after"])} if "retry_after" in error.fields else {}
    description = REPLIES[error.code].message
    if error.code is not RejectCode.INSUFFICIENT_SCOPE:
        return {"WWW-Authenticate": f'Bearer error="invalid_token", error_description="{description}"'}
    scopes: list[str] = error.fields.get("expected", [])
    value = f'Bearer error="insufficient_scope", error_description="{description}"'
    if scopes and all(_SCOPE_TOKEN.fullmatch(scope) for scope in scopes):
        value += f', scope="{" ".join(scopes)}"'
    return {"WWW-Authenticate": value}
