"""The checks of option values, and that every option that takes several values has them."""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import pytest
import socketio

from socketguard import (
    ConfigurationError,
    Heartbeat,
    JWTAuth,
    Limits,
    MemoryStore,
    NamespacePolicy,
    SocketGuard,
    TokenError,
)
from socketguard.auth.credentials import Credentials
from socketguard.check import YEAR, flag, is_loopback, listed, names, seconds
from socketguard.config import read_options
from socketguard.logs.host import ConnectionFilter
from socketguard.server.emits import watch_emits
from socketguard.testing import TEST_SECRET, make_auth, mint

NOT_SECONDS = [0, -1, True, "5", None, float("nan"), float("inf"), [5], 10**400, YEAR + 1]


def test_texts_without_an_order_are_sorted_and_others_are_not() -> None:
    assert listed(set("gfedcba"), "scopes", example="[]") == tuple("abcdefg")
    assert names(list("gfedcbag"), "scopes", example="[]") == tuple("gfedcba")


@pytest.mark.parametrize("value", [0.001, 5, 7.5, YEAR])
def test_seconds(value: float) -> None:
    found = seconds(value, "over", example=8)
    assert (found, type(found)) == (value, float)


@pytest.mark.parametrize("value", NOT_SECONDS)
def test_what_is_no_time_in_seconds(value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        seconds(value, "over", example=8)
    assert str(caught.value) == f"over is {value!r}; write seconds, such as over=8"
    assert caught.value.option == "over"


def test_seconds_with_a_bound_and_with_advice() -> None:
    assert seconds(60, "over", example=8, most=60) == 60.0
    with pytest.raises(ConfigurationError, match="over is 61; write seconds, such as over=8, at most 60"):
        seconds(61, "over", example=8, most=60)
    with pytest.raises(ConfigurationError, match="over is too large; wait less"):
        seconds(10**5000, "over", example=8, write="wait less")


def test_flags() -> None:
    assert flag(True, "debug") is True
    assert flag(False, "debug") is False
    for value in (0, 1, None, "yes"):
        with pytest.raises(ConfigurationError, match=f"debug of x is {value!r}; write True or False") as caught:
            flag(value, "debug", of=" of x")
        assert caught.value.option == "debug"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.0.1", "::1"])
def test_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "localhost.", "a.localhost", "10.0.0.1", "0.0.0.0", "::", "example.com", "[::1]"])
def test_other_machines(host: str) -> None:
    assert not is_loopback(host)


def jwt(**options: Any) -> JWTAuth:
    return JWTAuth(**{"key": TEST_SECRET, "algorithms": ["HS256"], **options})


def guarding(name: str) -> Callable[[Any], Any]:
    """Any option of `SocketGuard`, given to a guard."""

    def make(value: Any) -> Any:
        server = socketio.AsyncServer(async_mode="asgi")
        return SocketGuard.protect(server, **{"auth": make_auth(), "logger": False, name: value})

    return make


PROFILED = {"issuer": "a", "audience": "b", "profile": "rfc9068"}
TENANT = "8eaef023-2b34-4da1-9baa-8bc8c9d6a490"
LISTS: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "namespaces": ("namespaces", guarding("namespaces"), "/admin"),
    "trusted_proxies": ("trusted_proxies", guarding("trusted_proxies"), "10.0.0.1"),
    "allowed_origins": ("allowed_origins", guarding("allowed_origins"), "https://a.example"),
    "log_claims": ("log_claims", guarding("log_claims"), "tenant_id"),
    "stable_claims": ("stable_claims", guarding("stable_claims"), "tenant_id"),
    "ConnectionFilter": ("log_claims", lambda value: ConnectionFilter(log_claims=value), "tenant_id"),
    "scopes": ("scopes", lambda value: NamespacePolicy("/admin", scopes=value), "admin"),
    "algorithms": ("algorithms", lambda value: JWTAuth(TEST_SECRET, algorithms=value), "HS256"),
    "require": ("require", lambda value: jwt(require=value), "exp"),
    "require of a profile": ("require", lambda value: jwt(**PROFILED, require=value), "exp"),
    "sources": ("sources", lambda value: jwt(sources=value), "payload"),
    "payload_keys": ("payload_keys", lambda value: jwt(payload_keys=value), "token"),
    "types": ("types", lambda value: jwt(types=value), "JWT"),
    "issuer": ("issuer", lambda value: jwt(issuer=value), "https://id.example"),
    "audience": ("audience", lambda value: jwt(audience=value), "crm"),
    "audience of a discovery": ("audience", lambda value: JWTAuth.discover("https://a.example", audience=value), "crm"),
    "key": ("key", lambda value: jwt(key=value), TEST_SECRET),
    "tenants": ("tenants", lambda value: JWTAuth.entra("common", audience="crm", tenants=value), TENANT),
    "proxies": ("proxies", lambda value: Heartbeat(proxies=value), "nginx"),
    "transports": ("transports", lambda value: Heartbeat().findings(transports=value), "polling"),
    "watch_emits": ("namespaces", lambda value: watch_emits(socketio.AsyncManager(), namespaces=value), "/messages"),
}
ONE_MAY_DO = {"issuer", "audience", "audience of a discovery", "key"}


@pytest.mark.parametrize(("option", "make", "value"), LISTS.values(), ids=LISTS)
def test_every_option_that_takes_a_list_takes_nothing_that_iterates_otherwise(
    option: str, make: Callable[[Any], Any], value: str
) -> None:
    def generator() -> Any:
        yield value

    read = generator()
    next(read)
    wrong: dict[str, Any] = {
        "dict": {value: ["admin"]},
        "dict of nothing": {},
        "mapping": MappingProxyType({value: NamespacePolicy("/admin", scopes={"admin"})}),
        "counter": Counter([value]),
        "generator": generator(),
        "generator that was read": read,
        "iterator": iter([value]),
        "map": map(str, [value]),
        "bytearray": bytearray(value.encode()),
        "memoryview": memoryview(value.encode()),
        "number": 5,
        "True": True,
        "object": object(),
        "type": list,
        "bytes within": [value.encode()],
        "number within": [value, 5],
        "None within": [None, object()],
        "list within": [[value]],
        "tuple within": [(value, ["admin"])],
        "dict within": [{value: 1}],
        "nothing within": [value, ""],
    }
    if option == "key":
        del wrong["bytes within"]  # A secret.
    else:
        wrong["bytes"] = value.encode()
    for what, each in wrong.items():
        with pytest.raises(ConfigurationError) as caught:
            make(each)
        assert caught.value.option == option, what
        assert option.removesuffix("s") in str(caught.value), what
        assert re.search("write|must be a secret|make one|Known are", str(caught.value)), (what, str(caught.value))


@pytest.mark.parametrize("name", LISTS)
def test_every_option_that_takes_a_list_says_how_to_write_one(name: str) -> None:
    option, make, value = LISTS[name]
    for right in ([value], (value,), {value}, frozenset({value}), {value: 1}.keys(), deque([value])):
        make(right)
    if name in ONE_MAY_DO:
        make(value)
        return
    with pytest.raises(ConfigurationError) as caught:
        make(value)
    for part in (f"write {option}=", f'"{value}"', "not str, of which each character would count"):
        assert part in str(caught.value)


@pytest.mark.parametrize("values", [{"/admin": NamespacePolicy("/admin", scopes={"admin"})}, {"/admin": ["admin"]}])
def test_policies_are_no_mapping(values: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        guarding("namespaces")(values)
    assert str(caught.value) == (
        "namespaces must be a list, not dict, whose values would be dropped; write "
        'namespaces=["/messages", NamespacePolicy("/admin", scopes={"admin"})]'
    )


@pytest.mark.parametrize("value", [[make_auth()], (make_auth(),), {make_auth()}, {make_auth(): 1}.keys()])
def test_auth_may_be_any_collection(value: Any) -> None:
    assert read_options(value).auth == Credentials(make_auth())


@pytest.mark.parametrize("value", [{make_auth(): 1}, iter([make_auth()]), b"secret", {"key": "secret"}])
def test_auth_is_nothing_that_iterates_otherwise(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"auth must be a list, not .*; write auth=\[JWTAuth\(…\)") as caught:
        read_options(value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("scopes", [(["admin"],), ({"admin": 1},), (b"admin",), (None,), ("",)])
@pytest.mark.parametrize("requires", [SocketGuard.requires, make_auth().requires])
def test_requires_takes_texts(requires: Any, scopes: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"scopes must hold .*; write (guard|auth)\.requires\(") as caught:
        requires(*scopes)
    assert caught.value.option == "scopes"


@pytest.mark.parametrize("claims", ["tenant_id", ["tenant_id"], [("tenant_id", "acme")], 5, b"tenant_id"])
def test_claims_are_a_mapping(claims: Any) -> None:
    for make in (lambda: NamespacePolicy("/admin", claims=claims), lambda: jwt(claims=claims)):
        with pytest.raises(ConfigurationError, match="write") as caught:
            make()
        assert caught.value.option == "claims"


@pytest.mark.parametrize("proxies", [["nginx", "traefik"], {"nginx": 60}, b"nginx", None])
def test_each_hop_is_a_text(proxies: Any) -> None:
    with pytest.raises(ConfigurationError, match='write "nginx"') as caught:
        Heartbeat.behind(proxies)
    assert caught.value.option == "proxies"


@pytest.mark.parametrize("value", [{"admin": False}, {}, b"admin", [b"admin"], [["admin"]]])
def test_what_a_function_finds_for_scopes_is_no_mapping(value: Any) -> None:
    with pytest.raises(TokenError) as caught:
        make_auth(scope_claim=lambda claims: value).verify(mint())
    assert (caught.value.detail, caught.value.fields["expected"]) == ("claim_type", "a string or an array of strings")


SECRET = "s" * 40
CALLS: list[tuple[Callable[[], Any], str, str]] = [
    (lambda: JWTAuth(SECRET, algorithms=["HS256"], audiense="crm"), "audiense", "JWTAuth; did you mean audience?"),
    (lambda: JWTAuth(SECRET), "algorithms", "JWTAuth needs algorithms; write algorithms=…"),
    (lambda: JWTAuth(SECRET, key=SECRET, algorithms=["HS256"]), "key", "key is given to JWTAuth twice"),
    (lambda: JWTAuth(SECRET, ["HS256"], algorithms=[]), "JWTAuth", "write the options by their names: algorithms=…"),
    (
        lambda: JWTAuth.keycloak("https://id.example.com", "crm"),
        "audience",
        "JWTAuth.keycloak needs audience; write audience=…",
    ),
    (
        lambda: JWTAuth.keycloak("https://id.example.com", "crm", audience="crm", issuers="a"),
        "issuers",
        "issuers is no option of JWTAuth; did you mean issuer?",
    ),
    (lambda: JWTAuth.keycloak("https://id.example.com", audience="crm"), "realm", "JWTAuth.keycloak needs realm"),
    (
        lambda: JWTAuth.discover("https://id.example.com", issuer=["a"], audience="crm"),
        "issuer",
        "issuer is given to JWTAuth.discover twice; write it once",
    ),
    (
        lambda: NamespacePolicy("/a", scope={"a"}),
        "scope",
        "scope is no option of NamespacePolicy; did you mean scopes?",
    ),
    (lambda: Limits(conections=5), "conections", "conections is no option of Limits; did you mean connections?"),
    (lambda: Heartbeat(intervall=25), "intervall", "intervall is no option of Heartbeat; did you mean interval?"),
    (
        lambda: Heartbeat.behind("nginx", idle=5),
        "idle",
        "idle is no option of Heartbeat.behind; known are idle_timeout",
    ),
    (lambda: Heartbeat.for_idle_timeout(), "seconds", "Heartbeat.for_idle_timeout needs seconds"),
    (lambda: MemoryStore(capasity=5), "capasity", "capasity is no option of MemoryStore; did you mean capacity?"),
]


@pytest.mark.parametrize(("call", "option", "text"), CALLS, ids=[text for _, _, text in CALLS])
def test_a_call_with_wrong_arguments_says_what_was_meant(call: Callable[[], Any], option: str, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        call()
    assert text in str(caught.value)
    assert caught.value.option == option


FUNCTIONS: list[tuple[Callable[[Any], Any], str, int]] = [
    (lambda function: NamespacePolicy("/a", authorize=function), "authorize", 2),
    (lambda function: read_options(None, on_refresh=function), "on_refresh", 3),
    (lambda function: JWTAuth(SECRET, algorithms=["HS256"], clock=function), "clock", 0),
    (lambda function: JWTAuth(SECRET, algorithms=["HS256"], scope_claim=function), "scope_claim", 1),
    (lambda function: MemoryStore(clock=function), "clock", 0),
]


@pytest.mark.parametrize(("call", "option", "arguments"), FUNCTIONS, ids=[option for _, option, _ in FUNCTIONS])
def test_a_function_is_called_with_so_many_arguments(call: Callable[[Any], Any], option: str, arguments: int) -> None:
    taking: list[Callable[..., Any]] = [
        lambda: 1.0,
        lambda a: {"x"},
        lambda a, b: True,
        lambda a, b, c: True,
        lambda a, b, c, d: True,
    ]
    for number, function in enumerate(taking):
        if number == arguments:
            call(function)
            continue
        with pytest.raises(ConfigurationError, match=f"{option}.* can't be called with ") as caught:
            call(function)
        assert caught.value.option == option
    call(lambda *args: set() if args else 1.0)
    for value in (5, object()):
        with pytest.raises(ConfigurationError, match=f"{option}.* is a {type(value).__name__}; write "):
            call(value)
