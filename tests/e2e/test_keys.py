"""Keys from a real HTTP server: rotated, and out of reach, while tokens live for four seconds."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.issuing import KeyIssuer
from tests.e2e.support import (
    ACCEPTED,
    CLOSING,
    HANDSHAKE_REJECTED,
    REJECTED,
    SESSION_ENDED,
    TRANSPORTS,
    JavaScript,
    Polling,
    Server,
    free_port,
    seen,
    wait_until,
)

OUTAGE = 10.0
"""Seconds for which the key server is down."""

REFRESHED, UNAVAILABLE = "socketguard.keys.refreshed", "socketguard.keys.unavailable"
JOINED = {"more": {"kind": "connect"}}


def start_clients(js: JavaScript, server: Server, issuer: KeyIssuer, name: str, signal: str) -> Any:
    """Stock clients, until they have joined once more after a signal."""
    return {
        (subject := f"{name}-{transports}"): js.start(
            server,
            transports=transports,
            token_url=issuer.url(subject),
            reconnection=True,
            reconnectionDelayMax=2000,
            steps=[JOINED, {"signal": signal}, JOINED],
        )
        for transports in TRANSPORTS
    }


def joined_with(server: Server, key_id: str) -> set[Any]:
    """Who has joined with a token of this key."""
    return {line["subject"] for line in server.events(ACCEPTED, key_id=key_id)}


def check(result: dict[str, Any]) -> None:
    """Each expiry was followed by a join, however long that took, and no CONNECT was refused."""
    kinds = [note["kind"] for note in seen(result, "connect", CLOSING, "disconnect")]
    # A transport that is closed before the CONNECT was answered is one more "disconnect" to this client.
    lives = " ".join(kinds).replace(CLOSING, "closing")
    assert re.fullmatch(r"(connect (closing )?(disconnect )+)*connect", lives), lives
    for note in seen(result, "connect_error"):
        # At the handshake, after which clients try again by themselves, more and more rarely.
        assert note["active"] is True
        assert note["message"] in ("xhr poll error", "websocket error")


def test_an_outage_of_the_key_server(js: JavaScript, serve: Callable[..., Server]) -> None:
    quick = {"jwks_lifetime": 1.5, "jwks_cooldown": 0.5}
    with contextlib.closing(KeyIssuer()) as issuer:
        # The first has keys for the whole of the outage, the second for a part of it, the third is restarted in it.
        lasting = serve(auth=issuer.options(stale_if_error=600, **quick))
        short = serve(auth=issuer.options(stale_if_error=2, **quick), serializer="msgpack")
        options = issuer.options(stale_if_error=600, jwks_cooldown=0.5)
        # In this one nobody can do anything without a token.
        guarded = {"auth": options, "namespaces": ["/messages"]}
        first = serve(port=free_port(), **guarded)
        clients = {
            **start_clients(js, lasting, issuer, "lasting", "outage over"),
            **start_clients(js, short, issuer, "short", "outage over"),
            **start_clients(js, first, issuer, "restarted", "outage over"),
        }
        names = {name: {client for client in clients if client.startswith(name)} for name in ("lasting", "short")}
        for server in (lasting, short, first):
            assert server.wait_for_event(REFRESHED)["key_ids"] == ["key-1"]
            wait_until(lambda server=server: len(joined_with(server, "key-1")) == 3, server.output)

        # A key that nobody has seen is fetched when the first token signed with it comes; the old one is gone.
        assert issuer.rotate() == "key-2"
        for server in (lasting, short, first):
            wait_until(lambda server=server: len(joined_with(server, "key-2")) == 3, server.output)

        issuer.keys_down()
        begun = time.monotonic()
        first.kill()
        restarted = serve(port=first.port, **guarded)
        before = {server: len(server.events(ACCEPTED)) for server in (lasting, short)}
        assert short.wait_for_event(UNAVAILABLE, serving="none")["level"] == "error"
        assert restarted.wait_for_event(UNAVAILABLE, serving="none")["level"] == "error"
        # Where some namespaces need no token, a session is made, and the CONNECT ends it.
        assert short.wait_for_event(REJECTED, reason="keys_unavailable")["retry_after"] >= 1
        ended = short.wait_for_event(SESSION_ENDED, reason="keys_unavailable")
        assert ended["level"] == "warning"
        refused = restarted.wait_for_event(HANDSHAKE_REJECTED, reason="keys_unavailable")
        assert (refused["status"], refused["retry_after"] >= 1) == (503, True)
        answer = Polling(restarted).answer
        assert (answer.status, answer.json["code"]) == (503, "keys_unavailable")
        assert int(answer.headers["retry-after"]) == answer.json["retry_after"]
        wait_until(lambda: time.monotonic() - begun >= OUTAGE, "the end of the outage")
        assert restarted.events(ACCEPTED) == []
        # Meanwhile those with old keys went on from token to token.
        assert len(lasting.events(ACCEPTED)) - before[lasting] >= 3

        # It comes back with yet another key.
        assert issuer.rotate() == "key-3"
        issuer.keys_up()
        js.signal("outage over")
        for name, client in clients.items():
            result = client.result()
            check(result)
            assert result["connected"] is True, name
        assert joined_with(lasting, "key-3") >= names["lasting"]
        assert joined_with(short, "key-3") >= names["short"]
        for server in (lasting, short, restarted):
            refreshed = server.events(REFRESHED)
            assert refreshed[-1]["key_ids"] == ["key-3"]
            # One line for each change of state, not one for each attempt.
            assert [line["serving"] for line in server.events(UNAVAILABLE)] in (["stale"], ["stale", "none"], ["none"])
            # Nobody was told that a good token is bad.
            assert {line["reason"] for line in server.events(REJECTED)} <= {"keys_unavailable"}
        assert [line["serving"] for line in lasting.events(UNAVAILABLE)] == ["stale"]
        for server in (lasting, short, restarted):
            server.wait_until_empty()


@pytest.mark.parametrize("transports", TRANSPORTS)
def test_a_token_of_a_removed_key_is_refused(js: JavaScript, serve: Callable[..., Server], transports: str) -> None:
    def ask(token: str) -> dict[str, Any]:
        """What comes of a CONNECT; while a new attempt to fetch the keys isn't allowed yet, the transport is closed."""
        steps = [{"wait": ["connect", "connect_error", "disconnect"]}]
        found: dict[str, Any] = js.play(server, transports=transports, token=token, steps=steps)["steps"][0]
        return found

    with contextlib.closing(KeyIssuer(lifetime=3600)) as issuer:
        server = serve(auth=issuer.options(jwks_cooldown=0.1))
        old = issuer.mint("u-1")
        assert ask(old)["kind"] == "connect"
        issuer.rotate()
        # Whoever comes with the new key makes the server fetch it, and forget the old one.
        wait_until(lambda: ask(issuer.mint("u-2"))["kind"] == "connect", server.output)
        # The next one that is unknown is looked for once more, before the token is called invalid.
        error = wait_until(lambda: (found := ask(old)).get("data") and found, server.output)
        assert (error["data"]["code"], error["data"]["retry"]) == ("token_invalid", "login")
        line = server.events(REJECTED, reason="token_invalid")[-1]
        assert (line["detail"], line["key_id"]) == ("key_unknown", "key-1")
        assert server.events(UNAVAILABLE) == []
