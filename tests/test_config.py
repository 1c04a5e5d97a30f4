"""The options of a guard: each that can't work is named, with what to write instead."""

from __future__ import annotations

import dataclasses
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import socketio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from socketguard import ConfigurationError, Heartbeat, JWTAuth, Limits, MemoryStore, NamespacePolicy, SocketGuard
from socketguard.auth.credentials import Credentials
from socketguard.config import (
    VARIABLES,
    Options,
    Settings,
    admission_timeout,
    options_from_env,
    read_options,
)
from socketguard.proxies.trusted import TrustedProxies
from socketguard.testing import FakeClock, capture_events, make_auth, mint
from socketguard.tokens.issuers import Issuers
from tests.scripted import connect_packet, guarded, left, open_wire, until

ISSUERS = ("https://a.example.com/", "https://b.example.com/")


def settings(auth: Any = ..., **options: Any) -> Settings:
    return read_options(make_auth() if auth is ... else auth, **options)


class HalfAStore:
    def revoke(self, revocation: Any) -> None: ...


def on_refresh(connection: Any, old: Any, new: Any) -> None: ...
def load_user(identity: Any) -> None: ...


AUTH, STORE, LOGGER, POLICY = make_auth(), MemoryStore(), object(), NamespacePolicy("/admin", scopes={"admin"})
NOT_SECONDS = [0, -1, True, "5", float("nan"), float("inf"), [5], 10**400]
SECONDS = {"store_timeout": 2, "connect_timeout": 15, "admission_timeout": 10, "expiring_notice": 30}


@pytest.mark.parametrize(
    ("options", "option", "text"),
    [
        (
            {"auth": "secret"},
            "auth",
            "auth is a str; write auth=JWTAuth(key, algorithms=[…]), an Authenticator, a function of the request",
        ),
        ({"auth": []}, "auth", "auth is an empty list; write"),
        ({"auth": ()}, "auth", "auth is an empty tuple; write"),
        ({"auth": [make_auth(), "secret"]}, "auth", "auth is a list of something else; write"),
        ({"auth": False}, "auth", "auth is a bool; write"),
        ({"auth": [make_auth(), make_auth()]}, "issuer", "issuer"),
        ({"namespaces": "/messages"}, "namespaces", 'write namespaces=["/messages"]'),
        ({"namespaces": NamespacePolicy("/messages")}, "namespaces", "write namespaces=[NamespacePolicy("),
        ({"namespaces": 5}, "namespaces", "namespaces must be a list, not int"),
        ({"heartbeat": 25}, "heartbeat", "heartbeat is 25; write Heartbeat(interval=25, timeout=20) or Heartbeat.beh"),
        ({"limits": {"connections": 5}}, "limits", "limits is a dict; write limits=Limits(connections=1000, …)"),
        ({"limits": Limits}, "limits", "limits is a type; write"),
        (
            {"store": "redis://"},
            "store",
            "store is a str without the methods revoke and is_revoked; write store=Memory",
        ),
        ({"store": HalfAStore()}, "store", "store is a HalfAStore without the methods"),
        ({"store": {}}, "store", "store=MemoryStore()"),
        ({"store": MemoryStore}, "store", "store is the class MemoryStore; write store=MemoryStore()"),
        ({"store_timeout": 61}, "store_timeout", "write seconds, such as store_timeout=2, at most 60"),
        ({"store_timeout": 2_000}, "store_timeout", "at most 60"),
        ({"fail_open": "no"}, "fail_open", "fail_open is 'no'; write True or False"),
        ({"fail_open": 1}, "fail_open", "fail_open is 1; write True or False"),
        ({"fail_open": True}, "fail_open", "there is none: write store=…, or leave it out"),
        ({"debug": None}, "debug", "debug is None; write True or False"),
        ({"stable_claims": "tenant_id"}, "stable_claims", 'write stable_claims=("tenant_id",)'),
        ({"stable_claims": [""]}, "stable_claims", "non-empty strings"),
        ({"stable_claims": [5]}, "stable_claims", "non-empty strings"),
        ({"on_refresh": "function"}, "on_refresh", "on_refresh is a str; write a function of (connection, old, new)"),
        ({"load_user": 5}, "load_user", "load_user is a int; write a function of the identity"),
        ({"revalidate": 0, "load_user": load_user}, "revalidate", "write seconds"),
        ({"revalidate": 60}, "revalidate", "there is none: write load_user=…"),
        ({"auth": None, "load_user": load_user}, "load_user", "auth is None"),
        ({"revalidate_stale": None}, "revalidate_stale", "write seconds"),
        ({"report_only": 1}, "report_only", "write True or False"),
        ({"auth": None, "report_only": True}, "report_only", "auth is None"),
        ({"bind_polling": True}, "bind_polling", 'bind_polling is True; write bind_polling="address" or leave it out'),
        ({"bind_polling": "token"}, "bind_polling", "browsers send no token with the requests after the first"),
        ({"bind_polling": ["address"]}, "bind_polling", "leave it out"),
        ({"trusted_proxies": "10.0.0.1"}, "trusted_proxies", '["10.0.0.1"]'),
        ({"log_claims": "sub"}, "log_claims", "list"),
        ({"auth": make_auth(sources=("payload", "cookie:t"))}, "allowed_origins", "allowed_origins=['https://…']"),
        ({"auth": make_auth(sources=("payload", "cookie:t")), "allowed_origins": "*"}, "allowed_origins", "cookie"),
        (
            {"auth": None, "namespaces": ["/a", NamespacePolicy("/messages", scopes={"a"})]},
            "auth",
            "NamespacePolicy('/messages') asks for scopes or claims, but auth is None; write auth=JWTAuth(…)",
        ),
        ({"auth": None, "namespaces": [NamespacePolicy("/m", claims={"a": "b"})]}, "auth", "auth is None"),
        *(
            ({option: value}, option, f"{option} is {value!r}; write seconds, such as {option}={example}")
            for option, example in SECONDS.items()
            for value in NOT_SECONDS
        ),
        ({"store_timeout": None}, "store_timeout", "store_timeout is None; write seconds, such as store_timeout=2"),
    ],
)
def test_an_option_that_can_not_work_is_named(options: dict[str, Any], option: str, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        settings(**options)
    assert text in str(caught.value)
    assert caught.value.option == option


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("namespace", "did you mean namespaces?"),
        ("trust_proxies", "did you mean trusted_proxies?"),
        ("x", "known are auth, namespaces, heartbeat, limits, store"),
    ],
)
def test_an_unknown_option_is_named(name: str, advice: str) -> None:
    for make in (settings, guarded):
        with pytest.raises(
            ConfigurationError, match=re.escape(f"{name} is no option of SocketGuard; {advice}")
        ) as caught:
            make(**{name: 5})
        assert caught.value.option == name


def test_every_option_may_be_written_and_is_checked() -> None:
    assert ["auth", *Options.__annotations__] == [field.name for field in dataclasses.fields(Settings)]


DEFAULTS: dict[str, Any] = {
    "namespaces": None,
    "heartbeat": None,
    "limits": Limits(),
    "store": None,
    "store_timeout": 2.0,
    "fail_open": False,
    "connect_timeout": 15.0,
    "admission_timeout": None,
    "expiring_notice": 30.0,
    "stable_claims": (),
    "on_refresh": None,
    "load_user": None,
    "revalidate": None,
    "revalidate_stale": 300.0,
    "bind_polling": False,
    "trusted_proxies": TrustedProxies(),
    "allowed_origins": None,
    "log_claims": ("sub",),
    "logger": None,
    "debug": False,
    "report_only": False,
}
# What may be written instead of it, and what it means.
GIVEN: dict[str, tuple[Any, Any]] = {
    "namespaces": (["/messages", POLICY], ("/messages", POLICY)),
    "heartbeat": (Heartbeat(interval=20, timeout=15),) * 2,
    "limits": (Limits(connections=5),) * 2,
    "store": (STORE, STORE),
    "store_timeout": (1, 1.0),
    "fail_open": (True, True),
    "connect_timeout": (None, None),
    "admission_timeout": (5, 5.0),
    "expiring_notice": (None, None),
    "stable_claims": (["tenant_id", "tenant_id"], ("tenant_id",)),
    "on_refresh": (on_refresh, on_refresh),
    "load_user": (load_user, load_user),
    "revalidate": (60, 60.0),
    "revalidate_stale": (600, 600.0),
    "bind_polling": ("address", True),
    "trusted_proxies": (["10.0.0.0/8"], TrustedProxies(["10.0.0.0/8"])),
    "allowed_origins": (["https://x.example"], ("https://x.example",)),
    "log_claims": (("sub", "tenant_id"), ("sub", "tenant_id")),
    "logger": (LOGGER, LOGGER),
    "debug": (True, True),
    "report_only": (True, True),
}


def test_the_defaults_and_what_works_is_kept() -> None:
    assert list(DEFAULTS) == list(GIVEN) == list(Options.__annotations__)
    assert vars(settings(AUTH)) == {"auth": Credentials(AUTH), **DEFAULTS}
    found = settings(AUTH, **{name: written for name, (written, _) in GIVEN.items()})
    origins = found.allowed_origins
    assert isinstance(origins, tuple)
    kept = {name: meant for name, (_, meant) in GIVEN.items()}
    assert vars(found) == {"auth": Credentials(AUTH, origins), **kept}


def test_what_auth_may_be() -> None:
    first, second = (make_auth(issuer=issuer) for issuer in ISSUERS)
    assert settings(None).auth is None
    for auth in (first, [first]):
        found = settings(auth).auth
        assert found is not None
        assert (found.jwt, found.others) == (first, [])
    both = settings((first, second)).auth
    assert both is not None
    assert isinstance(both.jwt, Issuers)
    assert both.issuers == frozenset(ISSUERS)
    cookie = make_auth(sources=("payload", "cookie:t"))
    kept = settings(cookie, allowed_origins=["https://x.example"]).auth
    assert kept is not None
    assert (kept.jwt, kept.origins) == (cookie, ("https://x.example",))


def test_without_auth_namespaces_may_not_ask_for_anything_but_need_not() -> None:
    policies = ["/a", NamespacePolicy("/b", token="none"), NamespacePolicy("/c", authorize=lambda *_: True)]
    assert settings(None, namespaces=policies).auth is None


@pytest.mark.parametrize(
    ("asked", "ping_timeout", "expected"),
    [(None, 20, 10.0), (None, 6, 3.0), (None, 0, 10.0), (None, "x", 10.0), (19.0, 20, 19.0), (500.0, None, 500.0)],
)
def test_the_admission_timeout_stays_under_the_ping_timeout(asked: Any, ping_timeout: Any, expected: float) -> None:
    assert admission_timeout(asked, ping_timeout) == expected


@pytest.mark.parametrize("asked", [20.0, 21.0])
def test_an_admission_timeout_above_the_ping_timeout(asked: float) -> None:
    with pytest.raises(ConfigurationError, match="no pong is read while a client is admitted") as caught:
        admission_timeout(asked, 20)
    assert caught.value.option == "admission_timeout"
    assert f"admission_timeout is {asked:g} s, the ping timeout 20 s" in str(caught.value)


# Origins

PAGE = "https://crm.example.com"


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        (None, None),
        ("*", "*"),
        (["*"], "*"),
        ([PAGE], (PAGE,)),
        ((PAGE, "http://localhost:5173"), (PAGE, "http://localhost:5173")),
        (["https://[::1]:8443"], ("https://[::1]:8443",)),
    ],
)
def test_origins_that_can_match(given_: Any, expected: Any) -> None:
    assert settings(allowed_origins=given_).allowed_origins == expected


@pytest.mark.parametrize(
    ("origins", "text"),
    [
        (PAGE, r'write allowed_origins=\["https'),
        (5, "must be a list, not int"),
        ([], "empty"),
        ([5], "not a string"),
        *((origins, "wildcard") for origins in (["https://*.example.com"], ["*", PAGE])),
        *(([origin], "no origin") for origin in ("crm.example.com", "localhost:5173", "")),
        *(([origin], f"write '{PAGE}'") for origin in (f"{PAGE}/", f"{PAGE}/app", "HTTPS://CRM.example.com")),
        *(([origin], "own port") for origin in (f"{PAGE}:443", "http://crm.example.com:80")),
        (["https://crm.example.com:99999"], "not what a browser sends"),
    ],
)
def test_origins_that_could_never_match(origins: Any, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text) as found:
        settings(allowed_origins=origins)
    assert found.value.option == "allowed_origins"


# From the environment

SECRET = "a secret of at least thirty-two bytes"


def from_env(**variables: str) -> dict[str, Any]:
    return options_from_env({f"SOCKETGUARD_{name}": value for name, value in variables.items()})


def test_everything() -> None:
    options = from_env(
        JWT_SECRET=SECRET * 2,
        JWT_ALGORITHMS="HS384, HS512",
        JWT_ISSUER="https://id.example",
        JWT_AUDIENCE="crm, api",
        JWT_LEEWAY="2.5",
        NAMESPACES="/messages, /scheduler,",
        PING_INTERVAL="20",
        PING_TIMEOUT="10",
        ADMISSION_TIMEOUT="4.5",
        TRUSTED_PROXIES="10.0.0.0/8",
        ALLOWED_ORIGINS="https://a.example,https://b.example",
        LOG_CLAIMS="sub,email",
        DEBUG="true",
        LOG="off",
    )
    auth = options.pop("auth")
    assert options == {
        "namespaces": ["/messages", "/scheduler"],
        "heartbeat": Heartbeat(interval=20, timeout=10),
        "admission_timeout": 4.5,
        "trusted_proxies": ["10.0.0.0/8"],
        "allowed_origins": ["https://a.example", "https://b.example"],
        "log_claims": ["sub", "email"],
        "debug": True,
    }
    assert auth.leeway == 2.5
    token = mint("ann", key=SECRET * 2, algorithm="HS512", iss="https://id.example", aud="api")
    assert auth.verify(token).issuer == "https://id.example"
    assert auth.issuers == {"https://id.example"}


def test_a_key_may_be_written_in_several_ways(tmp_path: Path) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    public = private.public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
    pem_file, secret_file = tmp_path / "key.pem", tmp_path / "secret"
    pem_file.write_text(f"\n{pem}\n")
    secret_file.write_text(SECRET + "\n")
    for variables in (
        {"JWT_PUBLIC_KEY": pem},
        {"JWT_PUBLIC_KEY": pem.replace("\n", "\\n")},
        {"JWT_KEY_FILE": str(pem_file)},
    ):
        auth = from_env(JWT_ALGORITHMS="ES256", **variables)["auth"]
        assert auth.verify(mint("ann", key=private, algorithm="ES256")).subject == "ann"
    for variables in ({"JWT_SECRET": SECRET}, {"JWT_KEY_FILE": str(secret_file), "JWT_ALGORITHMS": "HS256"}):
        options = from_env(**variables)
        assert set(options) == {"auth"}
        assert options["auth"].verify(mint("ann", key=SECRET)).subject == "ann"


URL, ISSUER = "https://id.example/jwks", "https://id.example"


class TestPublishedKeys:
    def test_by_their_address(self) -> None:
        options = from_env(JWKS_URL=URL, JWT_ISSUER=ISSUER, JWT_AUDIENCE="crm, api", JWT_ALGORITHMS="RS256,ES256")
        expected = JWTAuth(jwks_url=URL, issuer=ISSUER, audience=["crm", "api"], algorithms=["RS256", "ES256"])
        assert described(options["auth"]) == described(expected)

    def test_by_their_issuer(self) -> None:
        options = from_env(OIDC_ISSUER=ISSUER, JWT_AUDIENCE="crm")
        assert described(options["auth"]) == described(JWTAuth.discover(ISSUER, audience="crm"))
        options = from_env(OIDC_ISSUER=ISSUER, JWT_AUDIENCE="crm", JWT_ALGORITHMS="ES256")
        assert options["auth"].describe()["algorithms"] == ["ES256"]

    def test_without_a_check_when_that_is_written(self) -> None:
        auth = from_env(JWKS_URL=URL, JWT_ISSUER="*", JWT_AUDIENCE="*", JWT_ALGORITHMS="RS256")["auth"]
        assert (auth.describe()["issuer"], auth.describe()["audience"]) == ("ANY", "ANY")
        auth = from_env(JWT_SECRET=SECRET, JWT_AUDIENCE="*")["auth"]
        assert auth.verify(mint("ann", key=SECRET, aud="anything")).subject == "ann"


def described(auth: JWTAuth) -> tuple[Any, ...]:
    """What two verifiers with equal configurations have in common; each fetches with a function of its own."""
    return auth.describe(), auth.issuers, auth.keys_status()


def test_the_times_of_a_token() -> None:
    auth = from_env(JWT_SECRET=SECRET, JWT_LEEWAY="0", JWT_MAX_LIFETIME="3600", JWT_EXPIRY="Ignore")["auth"]
    assert (auth.leeway, auth.max_lifetime_of(None)) == (0, 3600)
    assert auth.ends_at(auth.verify(mint("ann", key=SECRET))) is None
    with pytest.raises(ConfigurationError, match="expiry"):
        from_env(JWT_SECRET=SECRET, JWT_EXPIRY="never")


def test_an_empty_list_of_algorithms_is_no_default() -> None:
    with pytest.raises(ConfigurationError, match="algorithms is empty"):
        from_env(JWT_SECRET=SECRET, JWT_ALGORITHMS=",")


@pytest.mark.parametrize(
    ("variables", "options"),
    [
        ({"AUTH": "none"}, {"auth": None}),
        ({"AUTH": "NONE"}, {"auth": None}),
        ({"AUTH": "none", "PROXY": "cloudflare,traefik"}, {"heartbeat": Heartbeat.behind("cloudflare", "traefik")}),
        ({"AUTH": "none", "PING_INTERVAL": "15"}, {"heartbeat": Heartbeat(interval=15, timeout=20)}),
        ({"AUTH": "none", "PING_TIMEOUT": "15"}, {"heartbeat": Heartbeat(interval=25, timeout=15)}),
        ({"AUTH": "none", "ALLOWED_ORIGINS": "*"}, {"allowed_origins": ["*"]}),
        ({"AUTH": "none", "JWT_PUBLIC_KEY": "", "DEBUG": "", "NAMESPACES": "", "PROXY": ""}, {}),
    ],
)
def test_single_variables(variables: dict[str, str], options: dict[str, Any]) -> None:
    assert from_env(**variables) == {"auth": None, **options}


def test_the_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOCKETGUARD_AUTH", "none")
    assert options_from_env() == {"auth": None}
    assert options_from_env({"SOCKETGUARD_AUTH": "none", "SOCKETGUARDIAN": "1", "PATH": "/bin"}) == {"auth": None}


@pytest.mark.parametrize(
    ("variables", "option", "text"),
    [
        ({}, "JWT_SECRET", "no key"),
        ({"JWT_SECRET": SECRET, "JWT_PUBLIC_KEY": "x"}, "JWT_SECRET", "SOCKETGUARD_JWT_SECRET and SOCKETGUARD_JWT_PUB"),
        ({"AUTH": "jwt"}, "AUTH", "'none' or left out"),
        ({"AUTH": "none", "JWT_SECRET": SECRET}, "AUTH", "leave it out"),
        ({"JWT_PUBLIC_KEY": "x"}, "JWT_ALGORITHMS", "missing"),
        ({"JWT_KEY_FILE": "/nowhere/at/all", "JWT_ALGORITHMS": "ES256"}, "JWT_KEY_FILE", "No such file"),
        ({"JWT_SECRET": SECRET, "JWT_MAX_LIFETIME": "soon"}, "JWT_MAX_LIFETIME", "expected: seconds"),
        ({"JWT_SECRET": SECRET, "JWT_LEEWAY": "soon"}, "JWT_LEEWAY", "expected: seconds"),
        ({"JWT_SECRET": SECRET, "PING_INTERVAL": "2.5"}, "PING_INTERVAL", "whole seconds"),
        ({"JWT_SECRET": SECRET, "ADMISSION_TIMEOUT": "x"}, "ADMISSION_TIMEOUT", "seconds"),
        ({"JWT_SECRET": SECRET, "DEBUG": "perhaps"}, "DEBUG", "true or false"),
        ({"JWT_SECRET": SECRET, "PROXY": "nginx", "PING_INTERVAL": "5"}, "PROXY", "not both"),
        ({"JWT_SECRET": SECRET, "PROXY": "nginx", "PING_TIMEOUT": "5"}, "PROXY", "not both"),
        ({"JWKS_URL": URL, "JWT_AUDIENCE": "crm", "JWT_ALGORITHMS": "RS256"}, "JWT_ISSUER", "SOCKETGUARD_JWKS_URL"),
        ({"JWKS_URL": URL, "JWT_ISSUER": ISSUER, "JWT_ALGORITHMS": "RS256"}, "JWT_AUDIENCE", "comma-separated"),
        ({"OIDC_ISSUER": ISSUER}, "JWT_AUDIENCE", "SOCKETGUARD_OIDC_ISSUER"),
        ({"OIDC_ISSUER": ISSUER, "JWT_AUDIENCE": "crm", "JWT_ISSUER": ISSUER}, "JWT_ISSUER", "leave"),
        ({"JWKS_URL": URL, "JWT_ISSUER": ISSUER, "JWT_AUDIENCE": "crm"}, "JWT_ALGORITHMS", "missing"),
        ({"JWKS_URL": URL, "OIDC_ISSUER": ISSUER}, "JWT_SECRET", "SOCKETGUARD_JWKS_URL and SOCKETGUARD_OIDC"),
        ({"JWKS_URL": URL, "JWT_SECRET": SECRET}, "JWT_SECRET", "exactly one of"),
        ({"AUTH": "none", "OIDC_ISSUER": ISSUER}, "AUTH", "leave it out"),
        ({"JWT_SECRTE": SECRET}, "JWT_SECRTE", "did you mean SOCKETGUARD_JWT_SECRET"),
        ({"Z" * 60: "1"}, "Z" * 60, "known are"),
    ],
)
def test_what_can_not_work_is_named_and_no_secret_is(variables: dict[str, str], option: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text) as found:
        from_env(**variables)
    assert found.value.option == f"SOCKETGUARD_{option}"
    assert SECRET not in str(found.value)


def test_every_variable_is_explained() -> None:
    assert all(VARIABLES.values())


# On a server


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"limits": Limits()}, {}, True),
        ({"limits": Limits(connections=5)}, {}, False),
        ({"connect_timeout": 15}, {}, True),
        ({"connect_timeout": 16}, {}, False),
        ({"expiring_notice": 5}, {"expiring_notice": 5.0}, True),
        ({"stable_claims": ["a"]}, {"stable_claims": ("a",)}, True),
        ({"stable_claims": ["a"]}, {}, False),
        ({"on_refresh": on_refresh}, {"on_refresh": on_refresh}, True),
        ({"on_refresh": on_refresh}, {"on_refresh": lambda *_: None}, False),
        ({"bind_polling": "address"}, {}, False),
        ({"store": MemoryStore()}, {"store": MemoryStore()}, False),
        ({"trusted_proxies": ["10.0.0.0/8"]}, {"trusted_proxies": ["10.0.0.0/8"]}, True),
    ],
)
def test_guards_with_equal_options_share_a_server(one: dict[str, Any], other: dict[str, Any], same: bool) -> None:
    server = socketio.AsyncServer(async_mode="asgi", namespaces=["/messages"])
    first = SocketGuard.protect(server, auth=make_auth(), logger=False, **one)
    if same:
        second = SocketGuard.protect(server, auth=make_auth(), logger=False, **other)
        assert second._parts is first._parts
    else:
        with pytest.raises(ConfigurationError, match="a guard with other options already"):
            SocketGuard.protect(server, auth=make_auth(), logger=False, **other)


def test_a_guard_that_could_not_be_made_leaves_the_server_alone() -> None:
    server = socketio.AsyncServer(async_mode="asgi", namespaces=["/messages"])
    before = {**vars(server)}, {**vars(server.eio)}
    for options in ({"connect_timeout": 0}, {"admission_timeout": 20}, {"fail_open": True}):
        with pytest.raises(ConfigurationError):
            SocketGuard.protect(server, auth=make_auth(), **options)  # type: ignore[arg-type]
    assert ({**vars(server)}, {**vars(server.eio)}) == before


async def test_the_start_line_tells_of_limits_deadlines_and_the_store() -> None:
    limits = Limits(connections=7, queue_bytes=None)
    case = guarded(limits=limits, connect_timeout=None, admission_timeout=4, expiring_notice=12, store=MemoryStore())
    with capture_events() as events:
        wire = await open_wire(case.app)
    (started,) = [line for line in events if line["event"] == "socketguard.started"]
    configuration = started["configuration"]
    assert configuration["limits"] == limits.describe()
    assert configuration["connect_timeout_s"] is None
    assert configuration["admission_timeout_s"] == 4.0
    assert configuration["expiring_notice_s"] == 12.0
    assert configuration["store"] == "MemoryStore"
    await wire.close()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, set()),
        ({"store": MemoryStore()}, {"SG051"}),
        ({"store": MemoryStore(), "fail_open": True}, {"SG051", "SG053"}),
        ({"auth": None}, {"SG030"}),
    ],
)
def test_what_a_person_should_look_at(options: dict[str, Any], expected: set[str]) -> None:
    case = guarded(**options)
    found = case.guard.check()
    ids = {finding.id for finding in found if finding.id in ("SG030", "SG051", "SG053")}
    assert ids == expected
    for finding in found:
        assert finding.text
        assert finding.fix


async def test_several_issuers_on_a_server() -> None:
    clock = FakeClock()
    case = guarded(auth=[make_auth(issuer=issuer, clock=clock) for issuer in ISSUERS])
    wire = await open_wire(case.app)
    await wire.send(connect_packet(token=mint(iss="https://c.example.com/")))
    assert '"token_invalid"' in str(await wire.frame())
    await wire.send(connect_packet(token=mint(iss=ISSUERS[1])))
    assert str(await wire.frame()).startswith("40/messages,")
    assert case.guard.connections()[0].identity.issuer == ISSUERS[1]
    await wire.close()
    await until(lambda: not case.guard.connections())
    assert left(case) == {}


def test_the_verifier_is_at_hand_for_http_routes() -> None:
    auth = make_auth()
    assert guarded(auth=auth).guard.auth is auth
    assert guarded(auth=None).guard.auth is None
    assert isinstance(auth, JWTAuth)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda server: setattr(server.eio, "sockets", OrderedDict()), "sockets"),
        (lambda server: setattr(server, "environ", OrderedDict()), "environ"),
    ],
)
def test_a_server_whose_sessions_can_not_be_followed_is_refused(change: Any, named: str) -> None:
    server = socketio.AsyncServer(async_mode="asgi", namespaces=["/messages"])
    change(server)
    with pytest.raises(ConfigurationError, match=f"{named} not as expected in python-socketio") as caught:
        SocketGuard.protect(server, auth=make_auth())
    assert caught.value.option == "server"
    with pytest.raises(LookupError):
        SocketGuard.of(server)
