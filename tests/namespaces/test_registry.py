from __future__ import annotations

import itertools
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketguard.connection import ANONYMOUS, Connection, Identity
from socketguard.errors import ConfigurationError, Refusal, RejectCode
from socketguard.namespaces.policy import NamespacePolicy, is_plain
from socketguard.namespaces.registry import Known, Registry, authorise
from tests.namespaces.support import ANY_HANDLER, TEMPLATES, Server, allow, numbered, resolved


@st.composite
def patterns_of(draw: st.DrawFn, name: str) -> str:
    """A pattern that matches a name: some of its pieces became placeholders, at least one."""
    spots = [match.span() for match in re.finditer("[^/]+", name)]
    pattern, copied = "", 0
    for number, (start, end) in enumerate(spots):
        if number > 0 and draw(st.booleans()):
            continue
        first = draw(st.integers(start, end - 1))
        last = draw(st.integers(first + 1, end))
        pattern += f"{name[copied:first]}{{p{number}}}"
        copied = last
        if end - last >= 2 and draw(st.booleans()):
            pattern += f"{name[last : last + 1]}{{q{number}}}"
            copied = end
    return pattern + name[copied:]


@given(st.data(), st.from_regex(r"(/[ab-]{1,5}){1,3}/?", fullmatch=True))
def test_whatever_two_patterns_both_match_is_called_an_overlap(data: st.DataObject, name: str) -> None:
    one, other = data.draw(patterns_of(name)), data.draw(patterns_of(name))
    assert resolved(one, name) is not None
    assert resolved(other, name) is not None
    with pytest.raises(ConfigurationError, match=r"can match the same name|declared twice"):
        Registry([one, other])


@given(TEMPLATES, TEMPLATES)
def test_patterns_that_are_called_different_have_no_short_name_in_common(one: str, other: str) -> None:
    policies = [NamespacePolicy(numbered(template)) for template in (one, other)]
    shared = [name for name in SHORT_NAMES if all(policy.match(name) is not None for policy in policies)]
    try:
        Registry(policies)
    except ConfigurationError:
        return
    assert shared == [] or not all(policy.is_pattern for policy in policies)


SHORT_NAMES = ["/" + "".join(letters) for length in range(6) for letters in itertools.product("/a-", repeat=length)]


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("/{a}", "/{b}", True),
        ("/{a}", "/x-{b}", True),
        ("/x-{a}", "/y-{b}", False),
        ("/{a}-x", "/x-{b}", True),
        ("/{a}-x", "/{b}-y", False),
        ("/{a}", "/{b}/{c}", False),
        ("/{a}/", "/{b}", False),
        ("/a/{b}", "/{c}/b", True),
        ("/a{x}", "/aa{y}", True),
        ("/a{x}c", "/ab{y}", True),
        ("/ab{x}", "/a{y}", True),
        ("/{a}-{b}", "/{c}_{d}", True),
        ("/x{a}", "/x/{b}", False),
        ("/tenant-{a}", "/tenants-{b}", False),
        ("/tenant-{a}", "/tenant{b}", True),
        ("/{a}xx", "/x{b}", True),
        ("/{a}/x/{b}", "/y/{c}/{d}", True),
        ("/{a}/x/{b}", "/y/{c}/z", True),
        ("/{a}/x/q{b}", "/y/{c}/z", False),
    ],
)
def test_overlaps(one: str, other: str, overlap: bool) -> None:
    lists: list[list[str | NamespacePolicy]] = [[one, other], [other, NamespacePolicy(one, hidden=True, scopes={"s"})]]
    for names in lists:
        if overlap:
            with pytest.raises(ConfigurationError, match="can match the same name") as caught:
                Registry(names)
            assert repr(one) in str(caught.value)
            assert repr(other) in str(caught.value)
            assert caught.value.option == "namespaces"
        else:
            assert Registry(names).policies is not None


# --- Registry ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("namespaces", "says"),
    [
        ("/messages", 'write namespaces=["/messages"]'),
        *((value, 'write namespaces=["/messages", NamespacePolicy(') for value in (b"/messages", {"/messages": {}})),
        (NamespacePolicy("/messages"), "must be a list, not NamespacePolicy"),
        (5, "must be a list, not int"),
        ([("/messages", ["a"])], 'NamespacePolicy("/messages", scopes='),
        *((value, "is no text") for value in ([None], ["/messages", 5])),
        (["/messages", "scheduler"], 'write "/scheduler"'),
        (["/messages", "/messages"], "'/messages' is declared twice"),
        (["/messages", NamespacePolicy("/messages", hidden=True)], "'/messages' is declared twice"),
        (["/{a}", "/{a}"], "'/{a}' is declared twice"),
    ],
)
def test_lists_that_are_refused(namespaces: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(says)) as caught:
        Registry(namespaces)
    assert caught.value.option == "namespaces"


def test_without_a_list_what_is_registered_can_be_joined() -> None:
    registry = Registry(None)
    server = Server(("/messages", "/odd{name", "bare"))
    for name in server.exact:
        known = registry.resolve(name, server)
        assert known is not None
        assert (known.policy.name, known.policy.token, known.policy.is_pattern) == (name, "required", False)
        assert known.placeholders == {}
        assert registry.resolve(name, server) is known
    assert registry.resolve("/scheduler", server) is None
    assert registry.resolve("/messages/", server) is None
    assert registry.resolve("/messages", Server()) is None, "a handler that is gone is gone"
    assert registry.resolve("/any", ANY_HANDLER) is None, "handlers for all names don't say which there are"
    assert registry.policies is None
    assert registry.describe(server) == ["/messages", "/odd{name"], "a name without a slash cannot be joined"


@pytest.mark.parametrize(
    ("name", "admitted"),
    [
        *((name, True) for name in ("", "/a", "/any", "/{brace", "/" + "é" * 255)),
        *((name, False) for name in ("/" + "a" * 256, "/a?", "/a?token=x", "/a,", "/a,b")),
        *((name, False) for name in ("/a\n", "/a\x7f", "/a\u2066", "/\udcff")),
    ],
)
def test_without_a_list_a_wildcard_server_admits_what_is_plain(name: str, admitted: bool) -> None:
    known = Registry(None).resolve(name, Server(wildcard=True))
    assert is_plain(name) is (known is not None) is admitted
    if known is not None:
        assert (known.policy.name, known.policy.token) == (name, "required")


def test_the_default_policies_are_remembered_up_to_a_limit() -> None:
    registry = Registry(None)
    server = Server(tuple(f"/{number}" for number in range(1030)))
    first = [registry.resolve(name, server) for name in server.exact]
    again = [registry.resolve(name, server) for name in server.exact]
    assert first == again
    same = [one is other for one, other in zip(first, again, strict=True)]
    assert same == [True] * 1024 + [False] * 6


@pytest.mark.parametrize(
    ("server", "joinable"),
    [
        (Server(), set()),
        (Server(("/messages",)), {"/messages"}),
        (Server(("/t-acme",)), {"/t-acme"}),
        (Server(("/other",)), set()),
        (Server(catch_all=True), {"/messages", "/t-acme", "/t-bolt"}),
        (Server(wildcard=True), {"/messages", "/t-acme", "/t-bolt"}),
    ],
)
def test_a_declared_name_needs_a_handler(server: Server, joinable: set[str]) -> None:
    registry = Registry(["/messages", "/t-{tenant}"])
    asked = ["/messages", "/t-acme", "/t-bolt", "/t-", "/other", "/", "/t-{tenant}/x"]
    assert {name for name in asked if registry.resolve(name, server)} == joinable


def test_an_exact_name_goes_before_a_pattern() -> None:
    admin = NamespacePolicy("/t-admin", scopes={"admin"})
    orders: list[list[str | NamespacePolicy]] = [[admin, "/a-{x}", "/t-{tenant}"], ["/t-{tenant}", "/a-{x}", admin]]
    for order in orders:
        registry = Registry(order)
        assert registry.resolve("/t-admin", ANY_HANDLER) == Known(admin)
        tenant = registry.resolve("/t-acme", ANY_HANDLER)
        assert tenant == Known(NamespacePolicy("/t-{tenant}"), {"tenant": "acme"})
        with pytest.raises(TypeError):
            tenant.placeholders["tenant"] = "b"  # type: ignore[index, union-attr]


@given(st.text(), st.lists(st.text(max_size=5), max_size=4))
def test_without_a_list_resolve_agrees_with_the_server(name: str, served: list[str]) -> None:
    registry = Registry(None)
    server = Server(tuple(served))
    assert (registry.resolve(name, server) is not None) is server.serves(name)
    for one in served:
        assert registry.resolve(one, server) is not None


@given(st.text(alphabet=st.characters()) | st.text(alphabet="/abt-{}\n\ud800"))
def test_resolve_takes_any_text(name: str) -> None:
    known = Registry(["/a", "/t-{tenant}", "/b/{x}-{y}/{z}"]).resolve(name, ANY_HANDLER)
    if known is not None:
        assert known.policy.name.format(**known.placeholders) == name
        assert all(value and "/" not in value and "\n" not in value for value in known.placeholders.values())


def test_matching_a_hostile_name_takes_little_time() -> None:
    # Nine placeholders in one segment: a regular expression that tried every way to share the name out among them
    # would not come back.
    registry = Registry(["/" + "-".join(f"{{p{number}}}" for number in range(9)) + "/end"])
    for name in ("/" + "-" * 255, "/" + "a-" * 127, "/" + "-a" * 127):
        assert registry.resolve(name, ANY_HANDLER) is None


ADMIN = NamespacePolicy("/admin", hidden=True)
DECLARED = ["/scheduler", "/messages", "/t-{tenant}", "/u-{user}", ADMIN]


@pytest.mark.parametrize(
    ("namespaces", "server", "joinable"),
    [
        (DECLARED, Server(("/messages", "/t-acme", "/admin", "/more")), ["/messages", "/t-{tenant}", "/admin"]),
        (DECLARED, ANY_HANDLER, ["/scheduler", "/messages", "/t-{tenant}", "/u-{user}", "/admin"]),
        (DECLARED, Server(wildcard=True), ["/scheduler", "/messages", "/t-{tenant}", "/u-{user}", "/admin"]),
        (DECLARED, Server(), []),
        (None, Server(("/b", "/a", "bare")), ["/a", "/b"]),
        # A pattern is not served by a handler of an exact policy.
        (["/t-admin", "/t-{tenant}"], Server(("/t-admin",)), ["/t-admin"]),
    ],
)
def test_what_can_be_joined(namespaces: Any, server: Server, joinable: list[str]) -> None:
    assert [policy.name for policy in Registry(namespaces).joinable(server)] == joinable


def test_describe_is_plain_values() -> None:
    registry = Registry(
        [
            "/messages",
            NamespacePolicy("/scheduler", scopes={"b", "a"}, authorize=allow),
            NamespacePolicy("/t-{t}", token="optional", claims={"x": "{t}", "n": 1}, hidden=True),
            NamespacePolicy("/f", authorize=Callable()),
        ]
    )
    described = registry.describe(Server())
    assert described == [
        "/messages",
        {"name": "/scheduler", "scopes": ["a", "b"], "authorize": "allow"},
        {"name": "/t-{t}", "token": "optional", "claims": {"x": "{t}", "n": 1}, "hidden": True},
        {"name": "/f", "authorize": "Callable"},
    ]
    assert json.loads(json.dumps(described)) == described


class Callable:
    def __call__(self, identity: Identity, connection: Connection) -> bool:
        return True


# --- findings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("namespaces", "server", "expected"),
    [
        (["/a"], Server(("/a",)), []),
        (["/a"], Server(catch_all=True), []),
        (["/a"], Server(wildcard=True), []),
        (["/t-{t}"], Server(("/t-x",)), []),
        (None, Server(("/a",)), []),
        (None, Server(("/a",), catch_all=True, wildcard=True), []),
        (["/a", "/b"], Server(("/a",)), [("SG010", "'/b'", 'namespace="/b"')]),
        (["/a", "/t-{t}"], Server(("/a",)), [("SG010", "'/t-{t}'", 'namespace="*"')]),
        (["/a"], Server(("/a", "/b")), [("SG011", "'/b'", 'namespaces=[…, "/b"]')]),
        ([], Server(("/b",)), [("SG011", "'/b'", 'namespaces=[…, "/b"]')]),
        (["/a"], Server(("/a", "b")), [("SG012", "'b'", 'namespace="/b"')]),
        (None, Server(("b",)), [("SG012", "'b'", 'namespace="/b"')]),
        (None, Server(("/a",), catch_all=True), [("SG014", 'namespace="*"', "namespaces=[")]),
        (
            ["/a"],
            Server(("/b", "c")),
            [("SG010", "'/a'", 'namespace="/a"'), ("SG011", "'/b'", '"/b"'), ("SG012", "'c'", '"/c"')],
        ),
    ],
)
def test_findings(
    namespaces: list[str | NamespacePolicy] | None, server: Server, expected: list[tuple[str, str, str]]
) -> None:
    found = Registry(namespaces).findings(server)
    assert [finding.id for finding in found] == [id for id, _, _ in expected]
    for finding, (_, text, fix) in zip(found, expected, strict=True):
        assert text in finding.text
        assert fix in finding.fix


# --- authorise ---------------------------------------------------------------------------------------------------

USER = Identity("u1", claims={"sub": "u1"}, scopes=frozenset({"a", "b"}))
# Made by hand, with claims but without a subject.
NOBODY = Identity(None, {"x": "1"}, frozenset({"a", "b"}))
TENANT: dict[str, Any] = {"name": "/tenant-{tenant}", "claims": {"tenant_id": "{tenant}"}}
ORG: dict[str, Any] = {"claims": {"org.id": "acme"}}


def known(name: str = "/x", asked: str | None = None, **options: Any) -> Known:
    found = Registry([NamespacePolicy(name, **options)]).resolve(asked or name, ANY_HANDLER)
    assert found is not None
    return found


def claim(wanted: str | int) -> dict[str, Any]:
    return {"claims": {"c": wanted}}


def tenant(asked: str) -> dict[str, Any]:
    return {**TENANT, "asked": f"/tenant-{asked}"}


def holder(**claims: Any) -> Identity:
    return Identity("u1", claims=claims)


@pytest.mark.parametrize(
    ("options", "identity"),
    [
        ({}, USER),
        ({"token": "none"}, ANONYMOUS),
        ({"token": "optional"}, ANONYMOUS),
        ({"scopes": {"a"}}, USER),
        ({"scopes": {"a", "b"}}, USER),
        (claim("acme"), holder(c="acme")),
        (claim("5"), holder(c=5)),
        (claim(5), holder(c=5)),
        (claim(5), holder(c="5")),
        (claim(-1), holder(c=-1)),
        (claim(0), holder(c=0)),
        ({"claims": {"a": 1, "b": 2}}, holder(a=1, b=2)),
        (tenant("acme"), holder(tenant_id="acme")),
        (tenant("7"), holder(tenant_id=7)),
        (tenant("7"), holder(tenant_id="7")),
        (tenant("True"), holder(tenant_id="True")),
        (tenant("{tenant}"), holder(tenant_id="{tenant}")),
        ({"name": "/{a}/{b}", "asked": "/{b}/admin", "claims": {"c": "{a}:{b}"}}, holder(c="{b}:admin")),
        # A claim is an exact name first, and a path then.
        (ORG, Identity("u", {"org": {"id": "acme"}})),
        (ORG, Identity("u", {"org.id": "acme"})),
    ],
)
def test_who_may_enter(options: dict[str, Any], identity: Identity) -> None:
    assert authorise(known(**options), identity) is None


def mismatch(claim: str, expected: str, received: str | None) -> tuple[str, dict[str, Any]]:
    return "claim_mismatch", {"claim": claim, "expected": expected, "received": received}


def nothing(kind: str) -> str:
    return f"({kind} that counts for nothing)"


@pytest.mark.parametrize(
    ("options", "identity", "refusal"),
    [
        ({"scopes": {"d", "a", "c"}}, USER, ("scope_missing", {"required": ["a", "c", "d"], "missing": ["c", "d"]})),
        *(
            ({"token": "optional", **options}, identity, ("anonymous", fields))
            for identity in (ANONYMOUS, NOBODY)
            for options, fields in (
                ({"scopes": {"b", "a"}}, {"required": ["a", "b"], "claims": []}),
                ({"claims": {"x": "1"}}, {"required": [], "claims": ["x"]}),
            )
        ),
        *(
            (claim(wanted), holder(c=value), mismatch("c", str(wanted), received))
            for wanted, value, received in [
                ("acme", "Acme", "Acme"),
                ("acme", "acme ", "acme "),
                ("acme", "acme\n", "acme\\u000a"),
                ("acme", "x" * 300, "x" * 256 + "…"),
                ("acme", "", nothing("str")),
                ("acme", ["acme"], nothing("list")),
                ("acme", {"acme": 1}, nothing("dict")),
                ("acme", b"acme", nothing("bytes")),
                ("None", None, None),
                ("True", True, nothing("bool")),
                (1, True, nothing("bool")),
                (0, False, nothing("bool")),
                ("1.0", 1.0, nothing("float")),
                (1, 1.0, nothing("float")),
                ("[]", [], nothing("list")),
                (5, "05", "05"),
                (5, "٥", "٥"),
            ]
        ),
        pytest.param(claim(5), holder(c=10**5000), mismatch("c", "5", nothing("int")), id="what str() refuses"),
        (claim("1"), holder(), mismatch("c", "1", None)),
        ({"claims": {"a": 1, "b": 2}}, holder(a=1, b=3), mismatch("b", "2", "3")),
        *(
            (tenant(asked), holder(tenant_id=value), mismatch("tenant_id", asked, received))
            for asked, value, received in [
                ("07", 7, "7"),
                ("٧", 7, "7"),
                ("acme", "bolt", "bolt"),
                ("ACME", "acme", "acme"),
                ("None", None, None),
                ("True", True, nothing("bool")),
                ("{tenant}", "acme", "acme"),
                (".*", "acme", "acme"),
                ("\\1", "acme", "acme"),
                ("é", "e\u0301", "e\u0301"),
            ]
        ),
        # What a client puts into a placeholder is not read as one.
        *(
            (
                {"name": "/{a}/{b}", "asked": "/{b}/admin", "claims": {"c": "{a}:{b}"}},
                holder(c=value),
                mismatch("c", "{b}:admin", value),
            )
            for value in ("admin:admin", "x")
        ),
        *(
            (ORG, Identity("u", claims), mismatch("org.id", "acme", received))
            for claims, received in [
                ({"org.id": "bolt", "org": {"id": "acme"}}, "bolt"),
                ({"org.id": None, "org": {"id": "acme"}}, None),
                ({"org": {"id": {"x": "acme"}}}, nothing("dict")),
                ({"org": "acme"}, None),
                ({"org": ["acme"]}, None),
                ({"org": {}}, None),
                ({}, None),
            ]
        ),
    ],
)
def test_who_may_not(options: dict[str, Any], identity: Identity, refusal: tuple[str, dict[str, Any]]) -> None:
    assert authorise(known(**options), identity) == Refusal(RejectCode.INSUFFICIENT_SCOPE, *refusal)


@given(
    st.text(alphabet=st.characters(exclude_characters="/?,"), min_size=1, max_size=20),
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.lists(st.text(), max_size=2),
)
def test_only_the_same_text_or_integer_opens_a_tenant(name: str, value: object) -> None:
    found = Registry([NamespacePolicy(**TENANT)]).resolve(f"/tenant-{name}", ANY_HANDLER)
    if found is None:
        return
    assert authorise(found, holder(tenant_id=name)) is None
    admitted = authorise(found, holder(tenant_id=value)) is None
    counts = isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool))
    assert admitted is (counts and str(value) == name)
