"""socketguard: JWT, namespaces, heartbeats and readable logs for Socket.IO apps built on python-socketio."""

__version__ = "0.1.0"
