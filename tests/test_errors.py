from __future__ import annotations

import json

import pytest

from socketguard import ConfigurationError, RejectCode, SocketGuardError, TokenError
from socketguard.errors import REPLIES, HandshakeCode, Refusal, Retry


def test_every_code_has_a_reply() -> None:
    assert set(REPLIES) == {*RejectCode, *HandshakeCode}
    for code, reply in REPLIES.items():
        assert reply.message
        assert 400 <= reply.http_status < 600
        assert (reply.retry is None) == (code in (RejectCode.INVALID_NAMESPACE, RejectCode.REFUSED_BY_APP))


@pytest.mark.parametrize("code", [code for code in RejectCode if code is not RejectCode.INVALID_NAMESPACE])
def test_what_a_client_is_told(code: RejectCode) -> None:
    payload = Refusal(code, "signature_mismatch", {"expected": "x"}).payload("abc")
    reply = REPLIES[code]
    retry = None if reply.retry is None else reply.retry.value
    expected = {"message": reply.message, "data": {"code": code.value, "retry": retry, "ref": "abc"}}
    assert json.loads(json.dumps(payload)) == expected


def test_an_unknown_namespace_is_answered_as_the_reference_server_does_but_in_debug_with_details() -> None:
    refusal = Refusal(RejectCode.INVALID_NAMESPACE, "typo", {"registered": ["/a"]})
    assert json.dumps(refusal.payload("abc"), separators=(",", ":")) == '{"message":"Invalid namespace"}'
    details = {"code": "invalid_namespace", "retry": None, "ref": "abc", "detail": "typo", "registered": ["/a"]}
    assert refusal.payload("abc", debug=True) == {"message": "Invalid namespace", "data": details}


def test_when_to_try_again_is_told_everywhere() -> None:
    refusal = Refusal(RejectCode.RATE_LIMITED, "x", {"retry_after": 5, "limit": 1})
    told = {"code": "rate_limited", "retry": "backoff", "ref": "abc", "retry_after": 5}
    assert refusal.payload("abc") == {"message": "Too many attempts", "data": told}
    assert refusal.acknowledgement("abc") == {"ok": False, "message": "Too many attempts", **told}


def test_a_token_error_says_nothing_of_the_token() -> None:
    error = TokenError(RejectCode.TOKEN_INVALID, "issuer_mismatch", expected="a", received="b")
    assert str(error) == "Invalid token"
    assert error.refusal == Refusal(RejectCode.TOKEN_INVALID, "issuer_mismatch", {"expected": "a", "received": "b"})
    assert isinstance(error, SocketGuardError)


def test_a_configuration_error_names_the_option() -> None:
    error = ConfigurationError("algorithms is empty", option="algorithms")
    assert (str(error), error.option) == ("algorithms is empty", "algorithms")
    assert isinstance(error, SocketGuardError)
    assert isinstance(error, ValueError)
    assert ConfigurationError("x").option is None


def test_the_words_of_the_protocol_are_fixed() -> None:
    assert {code.value for code in RejectCode} == {
        *("invalid_namespace", "connect_malformed", "token_missing", "token_malformed", "token_expired"),
        *("token_not_yet_valid", "token_invalid", "token_revoked", "subject_mismatch", "insufficient_scope"),
        *("credential_invalid", "account_disabled", "not_signed_in"),
        *("keys_unavailable", "connection_limit", "rate_limited", "draining", "origin_not_allowed"),
        *("admission_timeout", "already_connected", "refused_by_app", "internal_error"),
    }
    assert {retry.value for retry in Retry} == {"never", "login", "refresh", "backoff", "now"}
