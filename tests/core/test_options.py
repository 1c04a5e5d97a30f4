"""The options of a guard: each that can't work is named, with what to write instead."""

from __future__ import annotations

import re
from collections import Counter, OrderedDict, deque
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
from socketguard.config import Settings, admission_timeout, name_of, read_options
from socketguard.logs.host import ConnectionFilter
from socketguard.server.emits import watch_emits
from socketguard.testing import TEST_SECRET, FakeClock, capture_events, make_auth, mint
from socketguard.tokens.issuers import Issuers
from tests.core.driver import connect_packet, guarded, nothing_left, open_wire, until

ISSUERS = ("https://a.example.com/", "https://b.example.com/")


def settings(auth: Any = ..., **options: Any) -> Settings:
    return read_options(make_auth() if auth is ... else auth, **options)


class HalfAStore:
    def revoke(self, revocation: Any) -> None: ...


def on_refresh(connection: Any, old: Any, new: Any) -> None: ...


NOT_SECONDS = [0, -1, True, "5", float("nan"), float("inf"), [5], 10**400]


@pytest.mark.parametrize(
    ("options", "option", "text"),
    [
        (
            {"auth": "secret"},
            "auth",
            "auth is a str; write auth=JWTAuth(key, algorithms=[…]), a list with one for each",
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
        ({"bind_polling": True}, "bind_polling", 'bind_polling is True; write bind_polling="address" or leave it out'),
        ({"bind_polling": "token"}, "bind_polling", "browsers send no token with the requests after the first"),
        ({"bind_polling": ["address"]}, "bind_polling", "leave it out"),
        ({"trusted_proxies": "10.0.0.1"}, "trusted_proxies", '["10.0.0.1"]'),
        ({"allowed_origins": "https://x.example"}, "allowed_origins", "list"),
        ({"allowed_origins": []}, "allowed_origins", "empty"),
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
            for option, example in (
                ("store_timeout", 2),
                ("connect_timeout", 15),
                ("admission_timeout", 10),
                ("expiring_notice", 30),
            )
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


def jwt(**options: Any) -> JWTAuth:
    return JWTAuth(**{"key": TEST_SECRET, "algorithms": ["HS256"], **options})


def a_key(value: Any) -> JWTAuth:
    return JWTAuth(value, algorithms=["HS256"])


def guarding(name: str) -> Callable[[Any], Any]:
    """Any option of `SocketGuard`, given to a guard."""

    def make(value: Any) -> Any:
        server = socketio.AsyncServer(async_mode="asgi")
        return SocketGuard.protect(server, **{"auth": make_auth(), "logger": False, name: value})

    return make


def a_discovered(value: Any) -> JWTAuth:
    return JWTAuth.discover("https://id.example", audience=value)


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
    "require of a profile": (
        "require",
        lambda value: jwt(issuer="a", audience="b", profile="rfc9068", require=value),
        "exp",
    ),
    "sources": ("sources", lambda value: jwt(sources=value), "payload"),
    "payload_keys": ("payload_keys", lambda value: jwt(payload_keys=value), "token"),
    "types": ("types", lambda value: jwt(types=value), "JWT"),
    "issuer": ("issuer", lambda value: jwt(issuer=value), "https://id.example"),
    "audience": ("audience", lambda value: jwt(audience=value), "crm"),
    "audience of a discovery": ("audience", a_discovered, "crm"),
    "key": ("key", a_key, TEST_SECRET),
    "tenants": (
        "tenants",
        lambda value: JWTAuth.entra("common", audience="crm", tenants=value),
        "8eaef023-2b34-4da1-9baa-8bc8c9d6a490",
    ),
    "proxies": ("proxies", lambda value: Heartbeat(proxies=value), "nginx"),
    "transports": ("transports", lambda value: Heartbeat().findings(transports=value), "polling"),
    "watch_emits": (
        "namespaces",
        lambda value: watch_emits(socketio.AsyncManager(), namespaces=value),
        "/messages",
    ),
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


@pytest.mark.parametrize(
    "values",
    [["/admin", "/admin"], ["/admin", NamespacePolicy("/admin", scopes={"admin"})]],
)
def test_a_namespace_that_is_there_twice(values: Any) -> None:
    with pytest.raises(ConfigurationError, match="'/admin' is declared twice: keep one of them"):
        guarding("namespaces")(values)


@pytest.mark.parametrize("value", [[make_auth()], (make_auth(),), {make_auth()}, {make_auth(): 1}.keys()])
def test_auth_may_be_any_collection(value: Any) -> None:
    assert settings(value).auth == make_auth()


@pytest.mark.parametrize("value", [{make_auth(): 1}, iter([make_auth()]), b"secret", {"key": "secret"}])
def test_auth_is_nothing_that_iterates_otherwise(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"auth must be a list, not .*; write auth=\[JWTAuth\(…\)") as caught:
        settings(value)
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


def test_the_defaults() -> None:
    auth = make_auth()
    found = read_options(auth)
    assert found.auth is auth
    assert found.limits == Limits()
    assert (found.store, found.store_timeout, found.fail_open) == (None, 2.0, False)
    assert (found.connect_timeout, found.admission_timeout, found.expiring_notice) == (15.0, None, 30.0)
    assert (found.stable_claims, found.on_refresh, found.bind_polling) == ((), None, False)
    assert (found.namespaces, found.heartbeat, found.allowed_origins) == (None, None, None)
    assert (found.log_claims, found.logger, found.debug) == (("sub",), None, False)


def test_what_works_is_kept() -> None:
    store, limits, heartbeat = MemoryStore(), Limits(connections=5), Heartbeat(interval=20, timeout=15)
    policy = NamespacePolicy("/admin", scopes={"admin"})
    found = settings(
        namespaces=["/messages", policy],
        heartbeat=heartbeat,
        limits=limits,
        store=store,
        store_timeout=1,
        fail_open=True,
        connect_timeout=None,
        admission_timeout=5,
        expiring_notice=None,
        stable_claims=["tenant_id", "tenant_id"],
        on_refresh=on_refresh,
        bind_polling="address",
        trusted_proxies=["10.0.0.0/8"],
        allowed_origins=["https://x.example"],
        log_claims=("sub", "tenant_id"),
        debug=True,
    )
    assert found.namespaces == ("/messages", policy)
    assert [name_of(each) for each in found.namespaces] == ["/messages", "/admin"]
    assert (found.heartbeat, found.limits, found.store) == (heartbeat, limits, store)
    assert (found.store_timeout, found.fail_open) == (1.0, True)
    assert (found.connect_timeout, found.admission_timeout, found.expiring_notice) == (None, 5.0, None)
    assert found.stable_claims == ("tenant_id",)
    assert found.on_refresh is on_refresh
    assert found.bind_polling is True
    assert found.allowed_origins == ("https://x.example",)


def test_what_auth_may_be() -> None:
    first, second = (make_auth(issuer=issuer) for issuer in ISSUERS)
    assert settings(None).auth is None
    assert settings([first]).auth is first
    both = settings((first, second)).auth
    assert isinstance(both, Issuers)
    assert both.issuers == frozenset(ISSUERS)
    assert settings(both).auth is both
    cookie = make_auth(sources=("payload", "cookie:t"))
    assert settings(cookie, allowed_origins=["https://x.example"]).auth is cookie


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
    case = guarded(
        limits=Limits(connections=7, queue_bytes=None),
        connect_timeout=None,
        admission_timeout=4,
        expiring_notice=12,
        store=MemoryStore(),
    )
    with capture_events() as events:
        wire = await open_wire(case.app)
    (started,) = [line for line in events if line["event"] == "socketguard.started"]
    configuration = started["configuration"]
    assert configuration["limits"] == Limits(connections=7, queue_bytes=None).describe()
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
    nothing_left(case)


def test_the_verifier_is_at_hand_for_http_routes() -> None:
    auth = make_auth()
    assert guarded(auth=auth).guard.auth is auth
    assert guarded(auth=None).guard.auth is None
    assert isinstance(auth, JWTAuth)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda server: setattr(server.eio, "send_packet", lambda sid, packet: None), "eio.send_packet"),
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
