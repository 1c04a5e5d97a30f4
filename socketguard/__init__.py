"""socketguard: JWT, namespaces, heartbeats and readable logs for Socket.IO apps built on python-socketio."""

from .guard import SocketGuard
from .heartbeat import Heartbeat
from .identity import Connection, Identity, current_connection
from .namespaces import NamespacePolicy
from .rejections import ConfigurationError, RejectCode, SocketGuardError, TokenError
from .verifier import JWTAuth

__all__ = [
    "ConfigurationError",
    "Connection",
    "Heartbeat",
    "Identity",
    "JWTAuth",
    "NamespacePolicy",
    "RejectCode",
    "SocketGuard",
    "SocketGuardError",
    "TokenError",
    "current_connection",
]

__version__ = "0.1.0"
