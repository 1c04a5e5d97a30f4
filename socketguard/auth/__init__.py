"""Is this credential good, where it is no token? The ready-made authenticators, beside `JWTAuth`."""

from socketguard.authenticator import Authenticator, ConnectRequest
from socketguard.deadline import quick
from socketguard.errors import CredentialError

from .api_key import APIKeyAuth
from .django import DjangoSessionAuth
from .introspection import IntrospectionAuth
from .session import SessionAuth

__all__ = [
    "APIKeyAuth",
    "Authenticator",
    "ConnectRequest",
    "CredentialError",
    "DjangoSessionAuth",
    "IntrospectionAuth",
    "SessionAuth",
    "quick",
]
