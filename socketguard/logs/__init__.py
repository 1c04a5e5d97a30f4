"""What is written, and what never is. Public: what an application adds to its own lines, and takes out of others'."""

from __future__ import annotations

from .host import ConnectionFilter, add_connection, configure
from .redact import RedactFilter

__all__ = ["ConnectionFilter", "RedactFilter", "add_connection", "configure"]
