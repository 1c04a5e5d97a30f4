"""The vocabulary of the log."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketguard.errors import ConfigurationError
from socketguard.logs import events
from socketguard.logs.events import EVENTS, RESERVED_FIELDS, STRUCTLOG_FIELDS, Event, check_log_claims, sentence
from tests.logs.processes import FIELDS, JOINED

CONSTANTS = {value for name, value in vars(events).items() if name.isupper() and isinstance(value, str)}


def test_every_name_is_a_constant_dotted_and_in_lower_case() -> None:
    assert {name for name in CONSTANTS if name.startswith("socketguard.")} == set(EVENTS)
    assert all(re.fullmatch(r"socketguard(\.[a-z]+(_[a-z]+)*)+", name) for name in EVENTS)


def test_levels() -> None:
    by_level = {
        logging.ERROR: [
            *("credential.unavailable", "handler.failed", "keys.unavailable", "store.unavailable"),
            "users.unavailable",
        ],
        logging.WARNING: [
            *("connection.would_reject", "connection.would_end"),
            *("config.warning", "handshake.rejected", "connection.rejected", "transport.upgrade_failed"),
            *("packet.rejected", "event.rejected", "session.ended", "event.unhandled", "traffic.pattern"),
            *("emit.undelivered", "token.refresh_rejected", "loop_blocked"),
        ],
        logging.DEBUG: ["token.expiring", "transport.upgraded"],
        logging.INFO: [
            *("started", "token.refreshed", "token.revoked", "subject.disconnected", "keys.refreshed"),
            *(
                "credential.recovered",
                "users.recovered",
                "store.recovered",
                "drain.started",
                "drain.finished",
                "connection.accepted",
                "connection.closed",
            ),
        ],
    }
    expected = {f"socketguard.{name}": level for level, names in by_level.items() for name in names}
    assert {name: event.level for name, event in EVENTS.items()} == expected


def test_the_vocabulary_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        EVENTS["x"] = Event(logging.INFO, str)  # type: ignore[index]
    assert events.SCHEMA_VERSION == 1


CLIENT = {"client_address": "10.0.0.1", "ref": "ab12cd34"}
NAMESPACE = {
    "reason": "invalid_namespace",
    "message": "Invalid namespace",
    "requested": "/schedulr",
    "registered": ["/messages", "/scheduler"],
    "suggestion": "/scheduler",
    "hint": "Names are compared exactly.",
    "cause": "typo",
}
# The name of an event and its fields, and below them the sentence.
SENTENCES = """
connection.rejected {"reason": "invalid_namespace", "namespace": "/x"}
    Refused '/x': Invalid namespace (invalid_namespace)
connection.rejected {"reason": "token_not_yet_valid", "namespace": "/m", "detail": "not_before", "valid_in_s": 30}
    Refused '/m': Token is not valid yet (token_not_yet_valid: valid in 30 s)
connection.rejected {"reason": "token_missing", "namespace": "/m", "detail": "no_token", "received": ["jwt", "user"]}
    Refused '/m': Authentication required (token_missing: no_token, received 'jwt', 'user')
connection.rejected {"reason": "refused_by_app", "namespace": "/m", "message": "Not today", "error": "ValueError"}
    Refused '/m': Not today (refused_by_app: ValueError)
connection.rejected {"reason": "of a later version"}
    Refused '/': of a later version
connection.rejected {"reason": "later", "detail": "x"}
    Refused '/': later (x)
connection.rejected
    Refused '/': unknown reason
connection.accepted {"namespace": "/public", "client_address": null}
    Joined '/public': anonymous
connection.closed {"namespace": "/m", "packets_in": 1, "events_in": 1}
    Left '/m': anonymous, 1 packet and 1 event in
connection.closed {"namespace": "/m", "packets_in": 1}
    Left '/m': anonymous
transport.upgraded {"session": "0a1b", "client_address": "::1"}
    Upgraded to websocket, session 0a1b, client ::1
transport.upgrade_failed {"hint": "A proxy may not pass the Upgrade header."}
    The upgrade to WebSocket failed: no reason known. A proxy may not pass the Upgrade header.
transport.upgrade_failed {"reason": "timeout", "session": "0a1b"}
    The upgrade to WebSocket failed: timeout, session 0a1b
transport.upgrade_failed {"detail": "no probe"}
    The upgrade to WebSocket failed: no probe
packet.rejected {"error": "ValueError", "client_address": "10.0.0.1"}
    Ended a session that sent a packet which can't be processed: ValueError, client 10.0.0.1
packet.rejected {"reason": "frame_too_large", "hint": "At most 16 KiB."}
    Ended a session that sent a packet which can't be processed: frame_too_large. At most 16 KiB.
handler.failed {"namespace": "/m", "handler": "chat", "error": "KeyError", "subject": "u-1"}
    A handler of the application failed in '/m': handler 'chat', KeyError, subject 'u-1'
handler.failed
    A handler of the application failed in '/': an exception
config.warning {"id": "SG030", "text": "Everybody may join.", "fix": "write auth=JWTAuth(…)"}
    SG030: Everybody may join. write auth=JWTAuth(…)
config.warning
    SG000: something in the configuration needs a look
started {"configuration": {"auth": null, "namespaces": ["/a"]}}
    socketguard has started: namespaces '/a'; paths none; no token is checked
started {"configuration": {"auth": {}, "namespaces": ["/a", {"name": "/b-{x}"}], "paths": ["/socket.io/"]}}
    socketguard has started: namespaces '/a', '/b-{x}'; paths '/socket.io/'
started {"configuration": null}
    socketguard has started
of.a.later.version {"a": 1, "b": "x"}
    socketguard.of.a.later.version: a '1', b 'x'
bare
    socketguard.bare
connection.accepted {"suppressed": 1}
    Joined '/': anonymous; 1 more like this was not logged
connection.accepted {"suppressed": 0}
    Joined '/': anonymous
connection.accepted {"suppressed": 7, "summary": true}
    Joined '/': anonymous; 7 like this were not logged, this one being the last
session.ended {"reason": "connect_timeout", "session": "ab", "hint": "Nothing was joined."}
    Ended a session: connect_timeout, session ab. Nothing was joined.
emit.undelivered {"event_name": "new", "namespace": "/as", "reason": "namespace_unserved", "suggestion": "/a"}
    Nobody gets the event 'new' in '/as': namespace_unserved; did you mean '/a'?
emit.undelivered {"event_name": "new", "namespace": "/a", "room": "tenant", "reason": "nobody", "hint": "Empty."}
    Nobody gets the event 'new' in '/a' to 'tenant': nobody. Empty.
event.rejected {"event_name": "send", "namespace": "/a", "reason": "rate_limited", "detail": "rate", "limit": "1/day"}
    Refused the event 'send' in '/a': Too many attempts (rate_limited: rate, limit '1/day')
event.unhandled {"event_name": "x", "namespace": "/a"}
    Nobody handles the event 'x' in '/a': no reason known
traffic.pattern {"pattern": "same_idle_age", "stands": true, "text": "A proxy cuts after 60 s.", "fix": "Raise it."}
    A proxy cuts after 60 s. Raise it.
traffic.pattern {"pattern": "same_idle_age", "stands": false}
    No longer so: same_idle_age
traffic.pattern {"stands": true}
    unknown
session.ended
    Ended a session: no reason known
token.expiring {"namespace": "/a", "subject": "u", "expires_in_s": 30}
    Token expires in 30 s in '/a': subject 'u'
token.refreshed {"namespace": "/a", "subject": "u", "expires_in_s": 60}
    Refreshed the token in '/a': subject 'u', now for 60 s
token.refreshed {"subject": "u"}
    Refreshed the token in '/': subject 'u'
token.refresh_rejected {"namespace": "/a", "reason": "subject_mismatch", "detail": "issuer", "ref": "ab"}
    Refused to refresh the token in '/a': Token belongs to someone else (subject_mismatch: issuer), ref ab
token.revoked {"selector": {"subject": "u"}, "ended": 2, "until": 1900000000}
    Revoked subject 'u': 2 connections ended, kept until 1900000000
token.revoked {"selector": {"token_id": "t"}, "error": "TimeoutError"}
    Revoked token_id 't': 0 connections ended; the store failed (TimeoutError), so that it may be forgotten
subject.disconnected {"selector": {"sid": "x", "namespace": "/a"}, "ended": 1}
    Disconnected sid 'x', namespace '/a': 1 connection ended
keys.refreshed {"url": "https://idp.example/jwks", "key_ids": ["a", "b"]}
    Fetched keys from https://idp.example/jwks: 'a', 'b'
keys.unavailable {"url": "https://idp.example/jwks", "serving": "stale", "reason": "status 500"}
    Can't fetch keys from https://idp.example/jwks, the old keys serve on: status 500
keys.unavailable {"url": "https://idp.example/jwks", "serving": "none"}
    Can't fetch keys from https://idp.example/jwks, nobody can be verified: no reason known
credential.unavailable {"credential": "api_key", "error": "TimeoutError"}
    Nobody can tell whose a credential of kind 'api_key' is: TimeoutError; clients come back by themselves
credential.recovered {"credential": "api_key"}
    Credentials of kind 'api_key' are checked again
users.unavailable {"error": "OSError"}
    load_user can't tell who is there: OSError; who is connected goes on for a while, others come back
users.recovered {}
    load_user finds users again
connection.would_reject {"reason": "token_missing", "namespace": "/messages", "client_address": "10.0.0.1"}
    Only reported: Refused '/messages': Authentication required (token_missing), client 10.0.0.1
connection.would_end {"reason": "token_expired", "namespace": "/messages", "subject": "ann", "session": "ab12"}
    Would have ended '/messages': token_expired, subject 'ann', session ab12
store.unavailable {"error": "TimeoutError", "fail_open": false}
    The store of revocations does not answer, clients are refused: TimeoutError
store.unavailable {"fail_open": true}
    The store of revocations does not answer, tokens are accepted unchecked: no reason known
store.recovered
    The store of revocations answers again
drain.started {"sessions": 3, "over_s": 8.0}
    Draining 3 sessions over 8.0 s
drain.finished {"ended": 1, "duration_s": 0.5}
    Drained 1 session in 0.5 s
"""


def written(table: str) -> Iterator[tuple[str, dict[str, Any], str]]:
    lines = table.strip().splitlines()
    for line, expected in zip(lines[::2], lines[1::2], strict=True):
        name, _, fields = line.partition(" ")
        yield f"socketguard.{name}", json.loads(fields or "{}"), expected.strip()


@pytest.mark.parametrize(
    ("event", "fields", "expected"),
    [
        *written(SENTENCES),
        (events.ACCEPTED, FIELDS, JOINED),
        (
            events.REJECTED,
            NAMESPACE,
            "Invalid namespace: asked '/schedulr', registered '/messages', '/scheduler'; did you mean '/scheduler'? "
            "Names are compared exactly.",
        ),
        (
            events.REJECTED,
            {**NAMESPACE, **CLIENT, "hint": None, "suppressed": 41},
            "Invalid namespace: asked '/schedulr', registered '/messages', '/scheduler'; did you mean '/scheduler'? "
            "(client 10.0.0.1, ref ab12cd34); 41 more like this were not logged",
        ),
        (
            events.REJECTED,
            {**NAMESPACE, "suggestion": None, "registered": []},
            "Invalid namespace: asked '/schedulr', registered none. Names are compared exactly.",
        ),
        (
            events.REJECTED,
            {"reason": "invalid_namespace", "requested": "/x", "registered": "/only", "cause": "nothing_registered"},
            "Invalid namespace: asked '/x', registered '/only' (nothing_registered)",
        ),
        (
            events.REJECTED,
            {"reason": "invalid_namespace", "requested": "/x", "registered": [f"/{n}" for n in range(12)]},
            "Invalid namespace: asked '/x', registered '/0', '/1', '/2', '/3', '/4', '/5', '/6', '/7', '/8', '/9' "
            "and 2 more",
        ),
        (
            events.REJECTED,
            {
                "reason": "token_expired",
                "namespace": "/m",
                "detail": "expired",
                "expired_s": 9,
                "subject": "u-1",
                **CLIENT,
            },
            "Refused '/m': Token has expired (token_expired: expired 9 s ago), subject 'u-1', "
            "client 10.0.0.1, ref ab12cd34",
        ),
        (
            events.REJECTED,
            {
                "reason": "token_invalid",
                "namespace": "/m",
                "detail": "issuer_mismatch",
                "claim": "iss",
                "expected": "https://id/",
                "received": "https://id",
                "hint": "They differ by a slash.",
            },
            "Refused '/m': Invalid token (token_invalid: issuer_mismatch, claim 'iss', expected 'https://id/', "
            "received 'https://id'). They differ by a slash.",
        ),
        (
            events.CLOSED,
            {**FIELDS, "duration_s": 12.345, "reason": "transport close", "packets_in": 14, "events_in": 3},
            "Left '/messages': subject 'u-1' after 12.3 s over websocket, reason 'transport close', "
            "14 packets and 3 events in",
        ),
        (
            events.HANDSHAKE_REJECTED,
            {
                "reason": "origin_not_allowed",
                "origin": "https://evil.example",
                "hint": 'Write allowed_origins=["https://evil.example"] to allow it.',
                "status": 403,
                **CLIENT,
            },
            "Refused a handshake: Origin not allowed (origin_not_allowed), origin 'https://evil.example', client "
            '10.0.0.1, HTTP status 403, ref ab12cd34. Write allowed_origins=["https://evil.example"] to allow it.',
        ),
    ],
)
def test_sentences(event: str, fields: dict[str, Any], expected: str) -> None:
    assert sentence(event, fields) == expected


def test_a_client_cannot_end_the_quotation_or_the_line() -> None:
    text = sentence(
        events.REJECTED,
        {"reason": "invalid_namespace", "requested": "/x', registered '/admin\nJoined", "registered": ["/messages"]},
    )
    assert text == "Invalid namespace: asked '/x\\', registered \\'/admin\\u000aJoined', registered '/messages'"


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_a_value_without_text_leaves_the_event_name() -> None:
    assert sentence(events.ACCEPTED, {"namespace": Hostile()}) == events.ACCEPTED
    assert sentence("unknown", {"namespace": Hostile()}) == "unknown"


any_text = st.text(st.characters(exclude_categories=[]))
plain = st.none() | st.booleans() | st.integers() | st.floats() | any_text | st.binary()
values = plain | st.lists(st.text()) | st.dictionaries(st.text(), st.integers()) | st.builds(Hostile)


@given(
    st.sampled_from([*EVENTS, "socketguard.unknown"]), st.dictionaries(st.sampled_from(sorted(RESERVED_FIELDS)), values)
)
def test_a_sentence_is_one_encodable_line_whatever_the_fields_hold(event: str, fields: dict[str, Any]) -> None:
    text = sentence(event, fields)
    text.encode()
    assert len(text.splitlines()) == 1


def test_log_claims_are_kept_in_order_each_once() -> None:
    assert check_log_claims(["sub", "email", "tenant_id", "email"]) == ("sub", "email", "tenant_id")
    assert check_log_claims(()) == ()
    assert check_log_claims(("https://example.com/tenant", "name")) == ("https://example.com/tenant", "name")


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ("sub", 'not str, of which each character would count; write log_claims=("sub",)'),
        (b"sub", "not bytes"),
        (None, "not NoneType"),
        (7, "not int"),
        ([b"sub"], "of type bytes"),
        ([["sub"]], "of type list"),
        (["sub", ""], "one is empty"),
        (["event"], "can't hold 'event'"),
        (["exc_info"], "can't hold 'exc_info'"),
        (["self"], "can't hold 'self'"),
        (["namespace"], "can't hold 'namespace'"),
        (["subject"], '(for the subject write "sub")'),
    ],
)
def test_log_claims_that_cannot_work_are_refused(names: Any, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_log_claims(names)
    assert says in str(caught.value)
    assert caught.value.option == "log_claims"


def test_the_reserved_names_hold_what_structlog_uses() -> None:
    assert {"event", "level", "timestamp", "logger", "exc_info", "exception", "stack_info"} <= STRUCTLOG_FIELDS
    assert STRUCTLOG_FIELDS <= RESERVED_FIELDS
    assert "sub" not in RESERVED_FIELDS
