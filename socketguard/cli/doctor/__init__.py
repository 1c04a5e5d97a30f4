"""``socketguard doctor URL``: examines a Socket.IO endpoint from outside, through whatever stands in front of it.

What is asked, in this order: the URL itself, DNS, TCP, TLS; the Engine.IO handshake over polling and over WebSocket,
each with and without ``Origin``; CORS; whether requests of one session meet the same process; the CONNECT of each
namespace; the upgrade; the heartbeat against the proxies that were recognised; and, on request, how long a quiet
connection lives. `probes` does the network, `verdict` (pure) says what the observations mean.
"""

from __future__ import annotations

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    """Examine an endpoint and print what is wrong with it.

    Args:
        arguments: of the command line.

    Returns:
        0 when all is good, 1 for findings, 2 for wrong usage, 3 when nothing answered.
    """
    # Here and not above, so that the pure parts can be imported without the extra.
    from .command import run

    return run(arguments)
