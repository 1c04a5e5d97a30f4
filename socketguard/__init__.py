"""socketguard: JWT, namespaces, heartbeats and readable logs for Socket.IO apps built on python-socketio."""

from .authenticator import Authenticator, ConnectRequest
from .connection import Connection, Identity, current_connection
from .errors import ConfigurationError, CredentialError, RejectCode, SocketGuardError, TokenError
from .guard import SocketGuard
from .limits.counters import Limits
from .limits.revocation import MemoryStore, Revocation, Store, StoreFull, StoreUnavailable
from .namespaces.policy import NamespacePolicy
from .proxies.heartbeat import Heartbeat
from .server.emits import watch_emits
from .tokens.auth import ANY, JWTAuth

__all__ = [
    "ANY",
    "Authenticator",
    "ConfigurationError",
    "ConnectRequest",
    "Connection",
    "CredentialError",
    "Heartbeat",
    "Identity",
    "JWTAuth",
    "Limits",
    "MemoryStore",
    "NamespacePolicy",
    "RejectCode",
    "Revocation",
    "SocketGuard",
    "SocketGuardError",
    "Store",
    "StoreFull",
    "StoreUnavailable",
    "TokenError",
    "current_connection",
    "watch_emits",
]

__version__ = "0.1.0"
