"""`Issuers`: each token goes to the verifier that knows its issuer, and to no other."""

from __future__ import annotations

import hmac
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from fastapi import Depends, FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from socketguard.authenticator import ConnectRequest
from socketguard.connection import Identity
from socketguard.errors import ConfigurationError, RejectCode, TokenError
from socketguard.testing import FakeClock
from socketguard.tokens.auth import ANY, Verifier
from socketguard.tokens.finder import Found
from socketguard.tokens.issuers import Issuers
from tests.tokens.minting import (
    DOWN,
    NOW,
    OTHER_SECRET,
    P256,
    RSA,
    SECRET,
    KeyServer,
    arefused,
    b64,
    claims,
    jwk,
    make,
    mint,
    publish,
    refused,
    sign,
    signed,
)

A, B, C = "https://a.example.com/", "https://b.example.com/", "https://c.example.com/{tid}/v2.0"


def both(**options: Any) -> Issuers:
    return Issuers(make(issuer=A, **options), make(OTHER_SECRET, issuer=[B, "b"], **options))


def from_b(**changes: Any) -> str:
    return jwt.encode(claims(**{"iss": B, **changes}), OTHER_SECRET)


class TestOneIssuerWithTwoKindsOfKeys:
    """While an issuer changes from a shared secret to a key pair, both sign (Supabase calls it key migration)."""

    def auth(self, **options: Any) -> Issuers:
        return Issuers(make(issuer=A, **options), make(P256.public_key(), algorithms=["ES256"], issuer=[A, B]))

    async def test_the_algorithm_chooses(self) -> None:
        auth = self.auth()
        for token in (mint(iss=A), jwt.encode(claims(iss=A), P256, "ES256"), jwt.encode(claims(iss=B), P256, "ES256")):
            identity = auth.verify(token)
            assert identity == await auth.averify(token) == auth.verify_now(token)
            assert auth.ends_at(identity) == claims()["exp"] + 10
        # The public key is no secret.
        form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        pem = P256.public_key().public_bytes(*form)
        head = mint(iss=A).rpartition(".")[0]
        forged = f"{head}.{b64(hmac.digest(pem, head.encode(), 'sha256'))}"
        assert refused(auth, forged).detail == "signature_mismatch"
        assert refused(auth, mint(iss=B)).detail == "algorithm_not_allowed"
        assert refused(auth, jwt.encode(claims(iss=A), RSA, "RS256")).detail == "algorithm_not_allowed"

    @pytest.mark.parametrize(("option", "value"), [("leeway", 5), ("expiry", "ignore")])
    def test_both_have_the_same_clocks_and_ends(self, option: str, value: Any) -> None:
        with pytest.raises(ConfigurationError, match="different") as caught:
            self.auth(**{option: value})
        assert caught.value.option == option


class TestChoosing:
    async def test_by_the_issuer(self) -> None:
        auth = both()
        assert auth.issuers == {A, B, "b"}
        for token, issuer in ((mint(iss=A), A), (from_b(), B), (from_b(iss="b"), "b")):
            assert auth.verify(token).issuer == (await auth.averify(token)).issuer == issuer
        # The key of one does not sign for the other.
        for token in (mint(iss=B), from_b(iss=A)):
            assert refused(auth, token).detail == (await arefused(auth, token)).detail == "signature_mismatch"

    def test_each_has_its_own_rules(self) -> None:
        auth = Issuers(make(issuer=A, audience="crm"), make(OTHER_SECRET, issuer=B, audience="mail"))
        assert auth.verify(from_b(aud="mail")).subject == "ann"
        assert refused(auth, from_b(aud="crm")).detail == "audience_mismatch"

    def test_the_algorithm_of_one_is_not_the_other_s(self) -> None:
        auth = Issuers(make(issuer=A), make(P256.public_key(), algorithms=["ES256"], issuer=B))
        assert auth.verify(jwt.encode(claims(iss=B), P256, "ES256")).issuer == B
        assert refused(auth, mint(iss=B)).detail == "algorithm_not_allowed"
        assert refused(auth, jwt.encode(claims(iss=A), P256, "ES256")).detail == "algorithm_not_allowed"

    @pytest.mark.parametrize(
        ("token", "detail", "fields"),
        [
            (mint(iss="https://evil.example/"), "issuer_mismatch", {"received": "https://evil.example/"}),
            (mint(iss=A[:-1]), "issuer_mismatch", {"hint": "they differ only by a trailing slash"}),
            (mint(iss="a\r\nb"), "issuer_mismatch", {"received": "a\\u000d\\u000ab"}),
            (sign({"alg": "HS256"}, rb'{"iss": "\ud800"}'), "issuer_mismatch", {"received": "\\ud800"}),
            (mint(), "claim_missing", {"claim": "iss"}),
            (sign({"alg": "HS256"}, claims(iss=None)), "claim_missing", {"claim": "iss"}),
            (sign({"alg": "HS256"}, claims(iss=[A])), "claim_type", {"claim": "iss", "received": "array"}),
            (sign({"alg": "HS256"}, claims(iss=5)), "claim_type", {"claim": "iss", "received": "number"}),
        ],
    )
    def test_an_unknown_issuer(self, token: str, detail: str, fields: dict[str, Any]) -> None:
        error = refused(both(), token)
        assert (error.code, error.detail) == (RejectCode.TOKEN_INVALID, detail)
        assert fields.items() <= error.fields.items()
        if detail != "claim_type":
            assert error.fields["expected"] == sorted([A, B, "b"])

    @pytest.mark.parametrize(
        ("token", "detail"),
        [
            (None, "not_a_string"),
            ("a.b", "not_three_parts"),
            ("a.b.c", "not_base64url"),
            (".".join(["AAAA", b64(b"{"), "AAAA"]), "not_json"),
            (".".join(["AAAA", b64(b"[]"), "AAAA"]), "not_an_object"),
            (".".join(["AAAA", b64(b"\xff"), "AAAA"]), "not_utf8"),
            (".".join(["AAAA", b64(b"[" * 5000), "AAAA"]), "nested_too_deeply"),
        ],
    )
    def test_malformed(self, token: Any, detail: str) -> None:
        error = refused(both(), token)
        assert error.code is RejectCode.TOKEN_MALFORMED
        # How deep is too deep, Python decides: 3.13 reads on to the end, where the brackets are missing.
        assert error.detail in {detail, "not_json" if detail == "nested_too_deeply" else detail}

    def test_what_reads_the_issuer_lets_nothing_through_that_is_refused_later(self) -> None:
        payload = json.dumps(claims(iss=A, x="...")).replace('"..."', "NaN").encode()
        assert refused(both(), sign({"alg": "HS256"}, payload)).detail == "not_json"

    async def test_a_template_after_exact_issuers(self) -> None:
        acme = "https://c.example.com/acme/v2.0"
        server, exact = KeyServer(), KeyServer(jwk(RSA, "two"))
        auth = Issuers(publish(server, issuer=C), publish(exact, issuer=acme), make(issuer=A))
        assert (await auth.averify(signed(iss="https://c.example.com/hooli/v2.0", tid="hooli"))).key_id == "one"
        assert (await auth.averify(signed(key_id="two", iss=acme, tid="acme"))).key_id == "two"
        for issuer, tid in (("https://c.example.com/hooli/v2.0", "acme"), (C, "{tid}x")):
            error = refused(auth, signed(iss=issuer, tid=tid))
            assert (error.detail, error.fields["expected"]) == ("issuer_mismatch", sorted([A, C, acme]))

    @settings(max_examples=300)
    @given(
        payload=st.binary(max_size=60)
        | st.text('{}[]":,\\u0d8e1-tfniss', max_size=60).map(str.encode)
        | st.fixed_dictionaries({"iss": st.sampled_from([A, B, "x", None, 1, ["x"]]), "exp": st.integers()}).map(
            lambda claims: json.dumps(claims).encode()
        ),
        key=st.sampled_from([SECRET, OTHER_SECRET]),
    )
    def test_whoever_is_accepted_is_accepted_by_the_right_one(self, payload: bytes, key: str) -> None:
        token = sign({"alg": "HS256"}, payload, key)
        try:
            identity = both().verify(token)
        except TokenError:
            return
        assert identity.issuer == (A if key is SECRET else B)

    @given(st.text() | st.binary())
    def test_nothing_but_a_token_error_comes_out(self, token: Any) -> None:
        assert isinstance(refused(both(), token), TokenError)


class TestTimes:
    def test_by_the_verifier_of_the_token(self) -> None:
        now = [float(NOW)]
        auth: Verifier = Issuers(
            make(issuer=A, leeway=0, clock=lambda: now[0]),
            make(OTHER_SECRET, issuer=B, leeway=20, clock=lambda: now[0]),
            make(issuer="quiet", expiry="ignore", clock=lambda: now[0]),
        )
        first, second, third = auth.verify(mint(iss=A)), auth.verify(from_b()), auth.verify(mint(iss="quiet"))
        assert (auth.ends_at(first), auth.ends_at(second), auth.ends_at(third)) == (NOW + 60, NOW + 80, None)
        assert (auth.leeway, auth.now()) == (20, NOW)
        anonymous = Identity(subject=None)
        assert auth.ends_at(anonymous) is None
        now[0] += 70
        auth.check_time(anonymous)
        auth.check_time(second)
        with pytest.raises(TokenError):
            auth.check_time(first)

    def test_whether_a_clock_is_moved_by_hand(self) -> None:
        real = [make(issuer=issuer, clock=time.time) for issuer in (A, B)]
        assert not Issuers(*real).moves_by_hand
        assert Issuers(real[0], make(issuer="x", clock=FakeClock())).moves_by_hand

    async def test_of_a_template(self) -> None:
        auth = Issuers(make(issuer=A), publish(KeyServer(), issuer=C, leeway=30))
        identity = await auth.averify(signed(iss="https://c.example.com/acme/v2.0", tid="acme"))
        assert auth.ends_at(identity) == NOW + 90

    def test_the_longest_lifetime(self) -> None:
        some = Issuers(make(issuer=A, max_lifetime=60), make(issuer=B))
        assert [some.max_lifetime_of(issuer) for issuer in (A, B, "x", None)] == [60, None, None, None]
        every = Issuers(make(issuer=A, max_lifetime=60), publish(KeyServer(), issuer=C, max_lifetime=90))
        assert every.max_lifetime_of(None) == 90
        assert every.max_lifetime_of("https://c.example.com/acme/v2.0") == 90


class TestKeys:
    async def test_out_only_when_all_are_out(self) -> None:
        server = KeyServer()
        server.answer = DOWN
        other, out = publish(KeyServer(), issuer=B), publish(server, issuer=A)
        later = publish(server, issuer="later", jwks_cooldown=100)
        for auth in (out, later):
            assert (await arefused(auth, signed(iss=next(iter(auth.issuers))))).code is RejectCode.KEYS_UNAVAILABLE
        assert (await other.averify(signed(iss=B))).issuer == B
        assert Issuers(out, other).outage() is None
        assert [status["state"] for status in Issuers(out, other).keys_status()] == ["unavailable", "fresh"]
        # One with a secret never is.
        assert Issuers(out, make(issuer="secret")).outage() is None
        assert 1 <= (Issuers(out, later).outage() or 0) <= 36

    async def test_it_starts_tells_and_ends_for_all(self) -> None:
        servers = KeyServer(), KeyServer(jwk(RSA, "two"))
        auth = Issuers(publish(servers[0], issuer=A), publish(servers[1], issuer=B))
        assert auth.verify_now(signed(iss=A)) is None
        assert refused(auth, signed(iss=A)).detail == "keys_pending"
        auth.start()
        assert (await auth.averify(signed(iss=A))).issuer == A
        assert (await auth.averify(signed(key_id="two", iss=B))).issuer == B
        position, changes = auth.changes(0)
        assert [change.fields["key_ids"] for change in changes] == [["one"], ["two"]]
        assert auth.changes(position) == (position, [])
        assert [len(server.asked) for server in servers] == [1, 1]
        await auth.close()


class TestConfiguration:
    @pytest.mark.parametrize(
        ("auths", "option", "text"),
        [
            ((), "auth", "empty"),
            ((None,), "auth", "NoneType"),
            ((make(issuer=A), "x"), "auth", "str"),
            ((make(issuer=A), make()), "issuer", "no issuer"),
            ((make(issuer=ANY), make(issuer=A)), "issuer", "no issuer"),
            ((make(issuer=A), make(issuer=[B, A])), "issuer", "two verifiers"),
            ((publish(KeyServer(), issuer=C), publish(KeyServer(), issuer=C)), "issuer", "two verifiers"),
            ((make(issuer=A), make(issuer=B, sources=("payload",))), "sources", "different sources"),
            ((make(issuer=A), make(issuer=B, payload_keys=("jwt",))), "payload_keys", "different payload_keys"),
        ],
    )
    def test_refused(self, auths: tuple[Any, ...], option: str, text: str) -> None:
        with pytest.raises(ConfigurationError, match=text) as caught:
            Issuers(*auths)
        assert caught.value.option == option

    def test_what_it_uses_and_finds(self) -> None:
        auth = both(sources=("payload", "cookie:c", "query:q"))
        assert auth.finder.uses_cookie
        assert auth.find(ConnectRequest([], b"", {}, {"token": "a.b.c"})) == Found("a.b.c", "payload")

    def test_its_verifiers(self) -> None:
        one, two = make(issuer=A), publish(KeyServer(), issuer=B)
        assert Issuers(one, two).auths == (*one.auths, *two.auths) == (one, two)
        assert (one.fetches_keys, two.fetches_keys) == (False, True)

    def test_findings_once(self) -> None:
        assert [finding.id for finding in both(sources=("query:q",), require=()).findings()] == ["SG034", "SG035"]

    def test_described(self) -> None:
        auth = both()
        described = [make(issuer=A).describe(), make(OTHER_SECRET, issuer=[B, "b"]).describe()]
        assert auth.describe() == {"issuers": described}
        json.dumps(auth.describe())
        assert SECRET not in repr(auth) + str(auth.describe())
        assert A in repr(auth)

    def test_equal_by_configuration(self) -> None:
        one, two = make(issuer=A, clock=int), make(issuer=B, clock=int)
        assert Issuers(one, two) == Issuers(make(issuer=B, clock=int), make(issuer=A, clock=int))
        assert hash(Issuers(one, two)) == hash(Issuers(two, one))
        assert Issuers(one, two) != Issuers(one)
        assert Issuers(one) != one


class TestHTTP:
    def test_routes_take_tokens_of_both(self) -> None:
        app, auth = FastAPI(), both()

        @app.get("/")
        async def read(identity: Identity = Depends(auth.requires("crm:read"))) -> dict[str, Any]:  # noqa: B008
            return {"issuer": identity.issuer}

        client = TestClient(app)
        for token, issuer in ((mint(iss=A, scope="crm:read"), A), (from_b(scope="crm:read"), B)):
            response = client.get("/", headers={"Authorization": f"Bearer {token}"})
            assert response.json() == {"issuer": issuer}
        response = client.get("/", headers={"Authorization": f"Bearer {mint(iss='x')}"})
        assert (response.status_code, response.json()) == (401, {"detail": "Invalid token"})
