"""``socketguard token``: development tokens, and explanations of given ones."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa, x25519
from hypothesis import given, settings
from hypothesis import strategies as st

from socketguard import cli
from socketguard.testing import TEST_SECRET, make_auth
from socketguard.testing import mint as mint_test
from tests.tokens.minting import KEYS, P256, RSA, RSA_NEXT, RSA_PEM, SECRET, b64, jwk, sign

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_A_TEST", SECRET)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def inspect(run: Run, text: str, *arguments: str, status: int = 0) -> str:
    return str(run("token", "inspect", text, *arguments, status=status).out)


def refusal(run: Run, *arguments: str) -> str:
    """What is said on stderr, and nothing on stdout, when it can't be done."""
    _, out, err = run("token", *arguments, status=2)
    assert (out, err.startswith("socketguard token: ")) == ("", True)
    return str(err)


def minted(run: Run, *arguments: str) -> dict[str, Any]:
    return jwt.decode(run("token", "mint", *arguments).out.strip(), options={"verify_signature": False})


def private_pem(key: Any, password: bytes | None = None) -> bytes:
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))


def inspected(run: Run, text: str, *arguments: str, status: int = 0) -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(inspect(run, text, "--json", *arguments, status=status))
    assert shown["schema_version"] == 1
    return shown


GIVEN = (["--secret", SECRET], ["--secret-env", "SECRET_OF_A_TEST"], ["--key-file", "secret"])

# --- mint


def test_a_token_for_tests_is_announced_loudly(run: Run) -> None:
    _, out, err = run("token", "mint")
    assert err.startswith("NOTICE: signed with socketguard.testing.TEST_SECRET")
    identity = make_auth().verify(out.strip())
    assert (identity.subject, identity.claims["dev"]) == ("dev", True)
    assert identity.expires_at is not None
    assert identity.issued_at is not None
    assert identity.expires_at - identity.issued_at == 3600


def test_the_claims_that_are_asked_for(run: Run) -> None:
    claims = minted(
        run,
        *("--subject", "ana", "--issuer", "dev", "--audience", "crm", "--scope", "a b", "--lifetime", "15m"),
        *("--claim", "tenant_id=acme", "--claim", "roles=[1, 2]", "--claim", "empty=", "--claim", "deep=" + "[" * 9999),
    )
    assert claims["exp"] - claims.pop("iat") == 900
    claims.pop("exp")
    named = {"sub": "ana", "iss": "dev", "aud": "crm", "scope": "a b"}
    assert claims == {**named, "tenant_id": "acme", "roles": [1, 2], "empty": "", "deep": "[" * 9999, "dev": True}
    assert minted(run, "--issuer", "https://login.example.com/", "--yes")["dev"] is True


@pytest.mark.parametrize(
    ("text", "seconds"), [("60", 60), ("60s", 60), ("2m", 120), ("1h", 3600), ("1d", 86_400), ("-1m", -60)]
)
def test_lifetimes(text: str, seconds: int, run: Run) -> None:
    claims = minted(run, f"--lifetime={text}")
    assert claims["exp"] - claims["iat"] == seconds


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--lifetime", "86401"], "more than a day"),
        (["--lifetime", "25h"], "more than a day"),
        (["--lifetime=-2d"], "more than a day"),
        (["--lifetime", "0"], "lifetime is 0"),
        (["--lifetime", "soon"], "lifetime is no time"),
        (["--lifetime", "1.5h"], "lifetime is no time"),
        (["--claim", "dev=false"], "the claim dev is this command's own"),
        (["--claim", "exp=4102444800"], "the claim exp is this command's own"),
        (["--claim", "iat=0"], "the claim iat is this command's own"),
        (["--claim", "tenant"], "a claim has no value"),
        (["--claim", "=x"], "a claim has no value"),
        (["--issuer", "https://login.example.com/"], "looks like a real one"),
        (["--claim", "iss=HTTPS://login.example.com/"], "looks like a real one"),
        (["--secret-env", "NOT_SET_ANYWHERE"], "the variable NOT_SET_ANYWHERE is not set"),
        (["--key-file", "nothing-here"], "the key file can't be read: No such file or directory"),
        (["--secret", "short"], "key has 5 bytes, but HS256 needs at least 32"),
        (["--secret-env", "SECRET_OF_A_TEST", "--algorithm", "RS256"], "no PEM text"),
    ],
)
def test_what_is_not_minted(arguments: list[str], expected: str, run: Run) -> None:
    assert expected in refusal(run, "mint", *arguments)


@pytest.mark.parametrize("algorithm", ["HS256", "HS512"])
def test_a_secret_of_ones_own(algorithm: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    for given_key in GIVEN:
        _, out, err = run("token", "mint", *given_key, "--algorithm", algorithm, "--kid", "k1")
        text = out.strip()
        assert jwt.decode(text, SECRET, [algorithm])["dev"] is True
        assert jwt.get_unverified_header(text)["kid"] == "k1"
        assert err == ""


@pytest.mark.parametrize(
    ("key", "wanted", "algorithm"),
    [
        (RSA, None, "RS256"),
        (RSA, "PS512", "PS512"),
        (P256, None, "ES256"),
        (KEYS["ES384"], None, "ES384"),
        (KEYS["ES512"], "ES512", "ES512"),
        (KEYS["EdDSA"], None, "EdDSA"),
        (ed448.Ed448PrivateKey.generate(), None, "EdDSA"),
    ],
)
def test_a_private_key(key: Any, wanted: str | None, algorithm: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(private_pem(key))
    arguments = [] if wanted is None else ["--algorithm", wanted]
    text = run("token", "mint", "--key-file", "key.pem", *arguments).out.strip()
    assert jwt.decode(text, key.public_key(), [algorithm])["dev"] is True


@pytest.mark.parametrize(
    ("pem", "arguments", "expected"),
    [
        (RSA_PEM.encode(), [], "no private key that can be used without a password"),
        (private_pem(RSA, b"password"), [], "no private key that can be used without a password"),
        (b"-----BEGIN PRIVATE KEY-----\nhush\n-----END PRIVATE KEY-----", [], "no private key"),
        (private_pem(x25519.X25519PrivateKey.generate()), [], "no private key"),
        (private_pem(rsa.generate_private_key(65537, 1024)), [], "key is an RSA key of 1024 bits"),  # noqa: S505
        (private_pem(P256), ["--algorithm", "RS256"], "the key fits ES256; leave --algorithm out"),
        (private_pem(ec.generate_private_key(ec.SECP256K1())), [], "no private key"),
    ],
)
def test_a_key_that_can_not_sign(pem: bytes, arguments: list[str], expected: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(pem)
    assert expected in refusal(run, "mint", "--key-file", "key.pem", *arguments)


# --- inspect: what a token says


def test_a_token_in_words(run: Run) -> None:
    now = int(time.time())
    more = {"nbf": now + 7260, "auth_time": now - 90_000, "iss": "dev\x1b[31m", "roles": ["a", "b"], "na\nme": 1}
    text = mint_test(now=now, lifetime=-180, **more)
    printed = inspect(run, text)
    lines = [line.strip() for line in printed.splitlines()]
    assert "alg: HS256  (how it is signed)" in lines
    assert "iss: dev\\u001b[31m  (who issued it)" in lines
    assert {"roles: a, b", "na\\u000ame: 1"} <= set(lines)
    for begin in ("exp: expired 3 minutes ago, 2", "nbf: begins in 2 hours, 2", "auth_time: signed in 1 day ago, 2"):
        assert any(line.startswith(begin) for line in lines)
    assert "Nothing was verified" in printed
    assert "\x1b" not in printed
    assert all(part not in printed for part in text.split("."))


def test_a_token_from_anywhere(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = mint_test("somebody")
    (tmp_path / "token").write_text(f"{text}\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{text}\n"))
    for arguments in ([text], [f"Bearer {text}"], ["-"], ["--token-file", "token"], ["@token"]):
        assert "sub: somebody" in run("token", "inspect", *arguments).out
    for arguments in ([], ["a.b.c", "--token-file", "x"]):
        assert "give a token, '-' for stdin, or --token-file FILE" in refusal(run, "inspect", *arguments)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (4_102_444_800_000, "no date before the year 10000; is it in milliseconds?"),
        (-1, "no date before the year 10000; is it in milliseconds?"),
        ("soon", "no number of seconds"),
        (True, "no number of seconds"),
        (1_000_000_000.5, "2001-09-09 01:46:40 UTC"),
    ],
)
def test_dates_that_are_none(value: Any, expected: str, run: Run) -> None:
    text = sign({"alg": "HS256"}, {"exp": value})
    assert inspected(run, text)["times"]["exp"].endswith(expected)


@pytest.mark.parametrize(
    ("header", "claims", "expected"),
    [
        ({"alg": "none"}, {"exp": 1}, "alg is none: nobody has signed it"),
        ({"alg": "HS256"}, {}, "There is no exp"),
        ({"alg": "HS256", "jku": "https://evil.example/", "x5c": []}, {"exp": 1}, "key of its own (jku, x5c)"),
        ({}, {"exp": 1}, "Nothing was verified"),
    ],
)
def test_remarks(header: dict[str, Any], claims: dict[str, Any], expected: str, run: Run) -> None:
    text = f"{b64(json.dumps(header))}.{b64(json.dumps(claims))}.c2ln"
    shown = inspected(run, text)
    assert any(expected in remark for remark in shown["remarks"])
    assert shown["verdict"] is None
    assert expected in " ".join(inspect(run, text).split())


def test_secrets_within_a_token_are_not_shown(run: Run) -> None:
    inner = mint_test()
    hidden = {"upstream_token": "hush-hush", "note": f"see {inner}", "nested": {"password": "hush-hush"}}
    text = mint_test(**hidden, token_use="access")
    shown = inspected(run, text)["claims"]
    assert shown["upstream_token"] == shown["note"] == shown["nested"] == "[redacted]"
    assert shown["token_use"] == "access"
    printed = inspect(run, text)
    assert "hush-hush" not in printed
    assert inner not in printed


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("", "not_three_parts"),
        ("a.b", "not_three_parts"),
        ("a.b.c.d.e", "not_three_parts"),
        ("a!.b.c", "not_base64url"),
        ("x" * 9000, "too_long"),
        ("e30.W10.e30", "not_an_object"),
        ("e30.e30.e", "not_base64url"),
        ("e30.ew.c2ln", "not_json"),
    ],
)
def test_a_malformed_token(text: str, detail: str, run: Run) -> None:
    shown = inspected(run, text, status=1)
    assert (shown["verdict"]["accepted"], shown["verdict"]["code"]) == (False, "token_malformed")
    assert shown["verdict"]["detail"] == detail
    assert shown["claims"] is None
    printed = inspect(run, text, status=1)
    assert printed.startswith("✗ Refused: token_malformed\n  rule    ")


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60))
def test_no_text_breaks_it(text: str) -> None:
    # A file, since no shell hands such texts on.
    path = Path("token")
    path.write_text(text, encoding="utf-8")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert cli.main(["token", "inspect", "--token-file", "token"]) == 1
    assert printed.getvalue().startswith("✗ Refused: token_malformed")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(max_examples=50)
@given(st.dictionaries(st.text() | st.sampled_from(["exp", "iat", "nbf", "alg", "jku"]), JSON))
def test_no_claims_break_it(claims: dict[str, Any]) -> None:
    text = f"{b64(json.dumps(claims))}.{b64(json.dumps(claims))}.c2ln"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        status = cli.main(["token", "inspect", text, "--secret-env", "SECRET_OF_A_TEST"])
    assert status == 1
    assert "Refused: token_" in printed.getvalue()
    assert not [line for line in printed.getvalue().splitlines() if not line.isprintable() and line.isascii()]


# --- inspect: whether it would be accepted


def test_accepted_by_a_secret(run: Run) -> None:
    text = mint_test(key=SECRET, iss="dev", aud="crm")
    shown = inspected(run, text, "--secret-env", "SECRET_OF_A_TEST")
    assert shown["verdict"] == {"accepted": True, "signature_checked": True}
    assert shown["remarks"] == ["Not checked, since not given: --issuer and --audience."]
    shown = inspected(run, text, "--secret", SECRET, "--issuer", "dev", "--audience", "crm")
    assert shown["remarks"] == []
    assert "✓ Accepted\n" in inspect(run, text, "--secret", SECRET)


@pytest.mark.parametrize(
    ("changes", "detail", "text"),
    [
        ({"key": SECRET[::-1]}, "signature_mismatch", "the signature is of no configured key"),
        ({"lifetime": -180}, "expired", "it has expired (expired), 3 minutes ago"),
        ({"nbf": 4_102_444_800}, "not_before", "its nbf lies in the future"),
        ({"iat": 4_102_444_800, "exp": 4_102_444_900}, "issued_in_future", "do the clocks agree?"),
        ({"exp": None}, "claim_missing", "claim exp"),
        ({"subject": None}, "claim_missing", "claim sub"),
        ({"exp": "soon"}, "claim_type", "claim exp, expected a number of seconds, received string"),
        ({"iss": "https://dev.example"}, "issuer_mismatch", "they differ only by a trailing slash"),
        ({"aud": "other"}, "audience_mismatch", "expected crm, received other"),
        ({"headers": {"typ": "dpop+jwt"}}, "type_not_allowed", "received dpop+jwt"),
        ({"headers": {"crit": ["b64"]}}, "crit_not_supported", "which nobody here understands"),
        ({"key": SECRET, "algorithm": "HS512"}, None, ""),
    ],
)
def test_the_rule_that_refuses(changes: dict[str, Any], detail: str | None, text: str, run: Run) -> None:
    changes = {"key": SECRET, "iss": "https://dev.example/", "aud": "crm", **changes}
    arguments = ("--secret-env", "SECRET_OF_A_TEST", "--issuer", "https://dev.example/", "--audience", "crm")
    shown = inspected(run, mint_test(**changes), *arguments, status=0 if detail is None else 1)
    assert shown["verdict"].get("detail") == detail
    assert text in shown["verdict"].get("text", "")


def test_keys_that_fit_and_keys_that_do_not(run: Run, tmp_path: Path) -> None:
    shown = inspected(run, mint_test(key=SECRET, algorithm="HS512"), "--secret", SECRET[:40], status=1)
    assert shown["verdict"]["text"].endswith("(algorithm_not_allowed): expected HS256, received HS512")
    (tmp_path / "key.pem").write_text(RSA_PEM)
    good, bad = (mint_test(key=key, algorithm="RS256") for key in (RSA, RSA_NEXT))
    assert inspected(run, good, "--key-file", "key.pem")["verdict"]["accepted"] is True
    assert inspected(run, bad, "--key-file", "key.pem", status=1)["verdict"]["detail"] == "signature_mismatch"
    (tmp_path / "key.pem").write_bytes(private_pem(RSA))
    assert "key is a private key" in refusal(run, "inspect", mint_test(), "--key-file", "key.pem")
    assert "key has 5 bytes" in refusal(run, "inspect", mint_test(), "--secret", "short")


@pytest.mark.parametrize(
    ("key", "key_id", "detail"),
    [(RSA, "one", None), (P256, "two", None), (RSA_NEXT, "one", "signature_mismatch"), (RSA, "three", "key_unknown")],
)
def test_published_keys_from_a_file(key: Any, key_id: str, detail: str | None, run: Run, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(json.dumps({"keys": [jwk(RSA, "one"), jwk(P256, "two")]}))
    algorithm = "ES256" if key is P256 else "RS256"
    text = mint_test(key=key, algorithm=algorithm, headers={"kid": key_id})
    shown = inspected(run, text, "--jwks-file", "keys", status=0 if detail is None else 1)
    assert shown["verdict"].get("detail") == detail
    (tmp_path / "keys").write_text('{"keys": [{"kty": "oct", "k": "aHVzaA"}]}')
    text = refusal(run, "inspect", mint_test(), "--jwks-file", "keys")
    assert "a shared secret is no secret when it is published" in text


# --- inspect: against an application


def application(write: Callable[[str], str], auth: str) -> str:
    return write(f"""
import socketio
from socketguard import JWTAuth, SocketGuard
async def fetch(url): raise AssertionError("something was fetched")
sio = socketio.AsyncServer(async_mode="asgi")
app = SocketGuard(socketio.ASGIApp(sio), auth={auth})
bare = socketio.ASGIApp(socketio.AsyncServer(async_mode="asgi"))
""")


def test_against_an_application(run: Run, write: Callable[[str], str]) -> None:
    name = application(write, f"JWTAuth({SECRET!r}, algorithms=['HS256'], audience='crm')")
    text = mint_test(key=SECRET, aud="crm")
    shown = inspected(run, text, "--app", f"{name}:app")
    assert (shown["verdict"], shown["remarks"]) == ({"accepted": True, "signature_checked": True}, [])
    shown = inspected(run, mint_test(key=SECRET, aud="x"), "--app", f"{name}:app", status=1)
    assert shown["verdict"]["detail"] == "audience_mismatch"
    for app in (f"{name}:bare", f"{application(write, 'None')}:app"):
        assert "has no guard that verifies tokens" in refusal(run, "inspect", text, "--app", app)


def test_against_an_application_whose_keys_are_published(run: Run, write: Callable[[str], str], tmp_path: Path) -> None:
    remote = "JWTAuth(jwks_url='https://k.example/', algorithms=['RS256'], issuer='i', audience='a', fetch=fetch)"
    app = ("--app", f"{application(write, remote)}:app")
    good, bad = (mint_test(key=key, algorithm="RS256", iss="i", aud="a") for key in (RSA, RSA_NEXT))
    shown = inspected(run, bad, *app, status=1)
    assert shown["verdict"] == {"accepted": None, "signature_checked": False}
    printed = inspect(run, bad, *app, status=1)
    assert "Nothing but the signature is left to check." in printed
    assert "Accepted" not in printed
    (remark,) = shown["remarks"]
    assert remark == "The signature was NOT checked: its keys are on the network. Give them with --jwks-file."
    (tmp_path / "keys").write_text(json.dumps({"keys": [jwk(RSA, "one")]}))
    assert inspected(run, good, *app, "--jwks-file", "keys")["verdict"]["signature_checked"] is True
    shown = inspected(run, bad, *app, "--jwks-file", "keys", status=1)
    assert shown["verdict"]["detail"] == "signature_mismatch"


# --- the command line


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["TOKEN"],
        ["inspect", "TOKEN", "TOKEN"],
        ["mint", "TOKEN"],
        ["mint", "--secret", "TOKEN", "--secret-env", "TOKEN"],
        ["inspect", "TOKEN", "--secret", "a", "--app", "b"],
    ],
)
def test_wrong_arguments(arguments: list[str], run: Run) -> None:
    text = mint_test()
    _, out, err = run("token", *[text if argument == "TOKEN" else argument for argument in arguments], status=2)
    assert out == ""
    assert "Usage: socketguard token" in err
    assert text.split(".")[1] not in err


def test_secrets_are_in_no_output(run: Run, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    text = mint_test(key=SECRET)
    for arguments in GIVEN:
        for options in ([], ["--json"]):
            printed = inspect(run, text, *arguments, *options)
            assert SECRET not in printed
            assert text not in printed
    assert TEST_SECRET not in inspect(run, mint_test())
