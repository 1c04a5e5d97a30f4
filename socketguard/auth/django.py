"""`DjangoSessionAuth`: who is signed in to a Django project, by its session cookie."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType, SimpleNamespace
from typing import Any, cast

from socketguard.authenticator import Authenticator, ConnectRequest
from socketguard.check import called, function
from socketguard.connection import Identity
from socketguard.errors import ConfigurationError, CredentialError

__all__ = ["DjangoSessionAuth"]


class DjangoSessionAuth(Authenticator):
    """Takes the session of a Django project, whatever engine keeps it, and asks Django whose it is.

    The checks are Django's own: the backend that signed the user in must still know it, the user must be active, and
    the password must not have been changed since. It runs in a thread, because Django's ORM blocks.
    ``allowed_origins`` must list the origins of the pages.

    Args:
        identity: a function of the user that returns an `Identity`, for scopes and claims of your own; it runs in the
            same thread. By default the subject is the primary key, and the claims hold ``username``, ``is_staff`` and
            ``is_superuser``.

    Raises:
        ConfigurationError: Django is not installed, or its settings are not there yet.
    """

    name = "session"

    @called("DjangoSessionAuth")
    def __init__(self, *, identity: Callable[[Any], Identity | None] | None = None) -> None:
        try:
            settings = importlib.import_module("django.conf").settings
            self._cookie: str = settings.SESSION_COOKIE_NAME
            self._engine = settings.SESSION_ENGINE
        except ImportError as exc:
            raise ConfigurationError(f"DjangoSessionAuth needs Django: {exc}", option="auth") from None
        except Exception as exc:
            raise ConfigurationError(
                f"DjangoSessionAuth needs Django's settings: set DJANGO_SETTINGS_MODULE and call django.setup() before "
                f"({type(exc).__name__})",
                option="auth",
            ) from exc
        write = "write a function of the user that returns an Identity or None"
        self._identity = _of_user if identity is None else function(identity, "identity", "user", write=write)
        self.places = [f"cookie:{self._cookie}"]

    def __repr__(self) -> str:
        return f"<DjangoSessionAuth {self.places[0]}>"

    def identify(self, request: ConnectRequest) -> Identity | None:
        """Say whose the session is: see `Authenticator.identify`."""
        key = request.cookies.get(self._cookie)
        if not key:
            return None
        database = importlib.import_module("django.db")
        # As Django does before and after each request: a connection may have gone meanwhile.
        database.close_old_connections()
        try:
            session = importlib.import_module(self._engine).SessionStore(key)
            auth = importlib.import_module("django.contrib.auth")
            if auth.SESSION_KEY not in session:
                return None
            user = auth.get_user(SimpleNamespace(session=session))
            if not user.is_authenticated:
                raise CredentialError("the user is not active, or changed its password since")
            found = self._identity(user)
            end = session.get_expiry_date().timestamp()
        finally:
            database.close_old_connections()
        if not isinstance(found, Identity):
            return cast("Identity | None", found)
        # The key itself is a secret, and this stands in log lines.
        token_id = found.token_id or hashlib.sha256(key.encode()).hexdigest()[:16]
        ends = end if found.expires_at is None else min(found.expires_at, end)
        return replace(found, token_id=token_id, expires_at=ends)


def _of_user(user: Any) -> Identity:
    claims = {"username": user.get_username()}
    for name in ("is_staff", "is_superuser"):
        claims[name] = bool(getattr(user, name, False))
    return Identity(str(user.pk), MappingProxyType(claims))
