from __future__ import annotations

import dataclasses
import itertools
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketguard.connection import ANONYMOUS, Connection, Identity
from socketguard.errors import ConfigurationError, RejectCode
from socketguard.namespaces.policy import NamespacePolicy
from socketguard.namespaces.registry import Known, Registry, authorise
from tests.unit.served import Server

ANY_HANDLER = Server(catch_all=True)


def allow(identity: Identity, connection: Connection) -> bool:
    return True


def resolved(pattern: str, name: str) -> dict[str, str] | None:
    known = Registry([pattern]).resolve(name, ANY_HANDLER)
    return None if known is None else dict(known.placeholders)


# --- NamespacePolicy ---------------------------------------------------------------------------------------------


def test_a_policy_asks_for_a_token_unless_told_otherwise() -> None:
    policy = NamespacePolicy("/messages")
    assert policy.name == "/messages"
    assert policy.token == "required"
    assert policy.scopes == frozenset()
    assert policy.claims == {}
    assert policy.authorize is None
    assert policy.hidden is False
    assert policy.is_pattern is False
    assert policy.placeholders == ()
    assert policy.literals == ("/messages",)


def test_a_pattern_knows_its_pieces() -> None:
    policy = NamespacePolicy("/t-{tenant}/{room}/x")
    assert policy.is_pattern is True
    assert policy.placeholders == ("tenant", "room")
    assert policy.literals == ("/t-", "/", "/x")


@pytest.mark.parametrize(
    "name",
    ["/", "/a", "/a/b/", "//a", "/ünï", "/a-b_c.d~e", "/{a}", "/{a}-{b}", "/{a}/{b}", "/x{_1}y", "/" + "a" * 255],
)
def test_names_that_are_good(name: str) -> None:
    assert NamespacePolicy(name).name == name


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("messages", 'write "/messages"'),
        ("", 'write "/"'),
        (None, "is no text"),
        (7, "is no text"),
        ("*", 'has a "*"'),
        ("/*", '"/{name}"'),
        ("/a?b=1", "without it"),
        ("/a,", "without it"),
        ("/a,b", "without it"),
        ("/a b", "a space"),
        (" /a", "a space"),
        ("/a\u00a0b", "a space"),
        ("/a\n", "control character"),
        ("/a\x00", "control character"),
        ("/a\u200b", "invisible character"),
        ("/a\u202e", "invisible character"),
        ("/a\ud800", "invisible character"),
        ("/" + "a" * 256, "at most 256"),
        ("/{", "no placeholder"),
        ("/}", "no placeholder"),
        ("/{}", "no placeholder"),
        ("/{a-b}", "no placeholder"),
        ("/{1a}", "no placeholder"),
        ("/{ä}", "no placeholder"),
        ("/{{a}}", "no placeholder"),
        ("/{a}{b}", "nothing between"),
        ("/{a}/{a}", "same placeholder twice"),
    ],
)
def test_names_that_are_refused(name: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(says)) as caught:
        NamespacePolicy(name)
    assert caught.value.option == "namespaces"


@pytest.mark.parametrize(
    ("options", "option", "says"),
    [
        ({"token": "maybe"}, "token", 'write "required", "optional" or "none"'),
        ({"token": None}, "token", "token=None"),
        ({"scopes": "a b"}, "scopes", 'write scopes={"a", "b"}'),
        ({"scopes": "a"}, "scopes", 'write scopes={"a"}'),
        ({"scopes": ""}, "scopes", 'write scopes={"messages:read"}'),
        ({"scopes": 5}, "scopes", "must be a list, not int"),
        ({"scopes": ["a", ""]}, "scopes", "one is empty"),
        ({"scopes": [b"a"]}, "scopes", "one is of type bytes"),
        ({"claims": [("a", "b")]}, "claims", "write a dict"),
        ({"claims": {"": "b"}}, "claims", "the name of a claim"),
        ({"claims": {1: "b"}}, "claims", "the name of a claim"),
        ({"claims": {"a": ""}}, "claims", "not empty"),
        ({"claims": {"a": True}}, "claims", "needs authorize="),
        ({"claims": {"a": None}}, "claims", "needs authorize="),
        ({"claims": {"a": ["x"]}}, "claims", "needs authorize="),
        ({"claims": {"a": 1.5}}, "claims", "needs authorize="),
        ({"claims": {"a": "{tenant"}}, "claims", "no placeholder"),
        ({"claims": {"a": "{tenant}{tenant}"}}, "claims", "nothing between"),
        ({"claims": {"a": "{user}"}}, "claims", "the placeholders of the name are: {tenant}"),
        ({"token": "none", "scopes": {"a"}}, "scopes", 'write token="required"'),
        ({"token": "none", "claims": {"a": "{tenant}"}}, "claims", 'write token="required"'),
        ({"authorize": "yes"}, "authorize", "write authorize=check"),
        ({"hidden": 1}, "hidden", "write True or False"),
        ({"hidden": None}, "hidden", "write True or False"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], option: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(says)) as caught:
        NamespacePolicy("/t-{tenant}", **options)
    assert caught.value.option == option


def test_a_claim_with_a_placeholder_needs_one_in_the_name() -> None:
    with pytest.raises(ConfigurationError, match="the placeholders of the name are: none"):
        NamespacePolicy("/messages", claims={"a": "{tenant}"})


def test_policies_are_compared_by_value_and_can_not_be_changed() -> None:
    def make(**more: Any) -> NamespacePolicy:
        options = {"scopes": ["b", "a"], "claims": {"x": 1}, "authorize": allow, **more}
        return NamespacePolicy("/a", **options)

    assert make() == make(scopes={"a", "b"})
    assert hash(make()) == hash(make(claims={"x": 1}))
    assert make() != make(hidden=True)
    assert make() != make(claims={"x": 2})
    assert make() != make(token="optional")
    assert dataclasses.replace(make(), hidden=True) == make(hidden=True)
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().name = "/b"  # type: ignore[misc]
    with pytest.raises(TypeError):
        make().claims["x"] = 2  # type: ignore[index]


def test_a_policy_does_not_follow_later_changes_of_its_arguments() -> None:
    scopes, claims = {"a"}, {"x": "1"}
    policy = NamespacePolicy("/a", scopes=scopes, claims=claims)
    scopes.clear()
    claims.clear()
    assert policy.scopes == {"a"}
    assert policy.claims == {"x": "1"}


def test_repr_shows_what_was_set_and_reads_back() -> None:
    assert repr(NamespacePolicy("/a")) == "NamespacePolicy('/a')"
    policy = NamespacePolicy(
        "/t-{t}", token="optional", scopes={"b", "a"}, claims={"x": "{t}"}, authorize=allow, hidden=True
    )
    assert repr(policy) == (
        "NamespacePolicy('/t-{t}', token='optional', scopes={'a', 'b'}, claims={'x': '{t}'}, authorize=allow, "
        "hidden=True)"
    )
    assert eval(repr(policy)) == policy  # noqa: S307


# --- matching ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("/tenant-{tenant}", "/tenant-acme", {"tenant": "acme"}),
        ("/tenant-{tenant}", "/tenant-a", {"tenant": "a"}),
        ("/tenant-{tenant}", "/tenant--", {"tenant": "-"}),
        ("/tenant-{tenant}", "/tenant-{tenant}", {"tenant": "{tenant}"}),
        ("/tenant-{tenant}", "/tenant-..", {"tenant": ".."}),
        ("/tenant-{tenant}", "/tenant-٣", {"tenant": "٣"}),
        ("/tenant-{tenant}", "/tenant-" + "a" * 248, {"tenant": "a" * 248}),
        ("/tenant-{tenant}", "/tenant-" + "a" * 249, None),
        ("/tenant-{tenant}", "/tenant-", None),
        ("/tenant-{tenant}", "/tenant-a/b", None),
        ("/tenant-{tenant}", "/tenant-a/", None),
        ("/tenant-{tenant}", "/tenant-a\n", None),
        ("/tenant-{tenant}", "/tenant-a\r\n", None),
        ("/tenant-{tenant}", "/tenant-\x00", None),
        ("/tenant-{tenant}", "/tenant-a\u2028", None),
        ("/tenant-{tenant}", "/tenant-a\u200b", None),
        ("/tenant-{tenant}", "/tenant-\ud800", None),
        ("/tenant-{tenant}", "/tenant-a?token=x", None),
        ("/tenant-{tenant}", "/tenant-a,", None),
        ("/tenant-{tenant}", "/Tenant-a", None),
        ("/tenant-{tenant}", "x/tenant-a", None),
        ("/tenant-{tenant}", "tenant-a", None),
        ("/t.{a}", "/tx1", None),
        ("/{a}-{b}", "/x-y", {"a": "x", "b": "y"}),
        ("/{a}-{b}", "/x-y-z", {"a": "x", "b": "y-z"}),
        ("/{a}-{b}", "/--x", {"a": "-", "b": "x"}),
        ("/{a}-{b}", "/-x", None),
        ("/{a}-{b}", "/x-", None),
        ("/{a}-{b}-c", "/x-y-c-c", {"a": "x", "b": "y-c"}),
        ("/{a}--{b}", "/x---y", {"a": "x", "b": "-y"}),
        ("/{a}/{b}", "/x/y", {"a": "x", "b": "y"}),
        ("/{a}/{b}", "/x//y", None),
        ("/{a}x/{b}y", "/axx/byy", {"a": "ax", "b": "by"}),
    ],
)
def test_what_placeholders_match(pattern: str, name: str, expected: dict[str, str] | None) -> None:
    assert resolved(pattern, name) == expected
    match = NamespacePolicy(pattern).match(name)
    assert (None if match is None else dict(match)) == expected


def test_match_of_an_exact_name() -> None:
    policy = NamespacePolicy("/a")
    assert policy.match("/a") == {}
    assert policy.match("/b") is None


TEMPLATES = st.lists(st.sampled_from(["/", "a", "-", "--", "aa", "/a", "{}"]), max_size=6).map(
    lambda parts: "/" + "".join(parts)
)


def numbered(template: str) -> str:
    """Placeholders with names, with something between neighbours."""
    counter = itertools.count()
    while "{}{}" in template:
        template = template.replace("{}{}", "{}-{}")
    return re.sub(r"\{\}", lambda _: f"{{p{next(counter)}}}", template)


@given(TEMPLATES, st.text(alphabet="/a-", max_size=9).map(lambda text: f"/{text}"))
def test_matching_agrees_with_a_plain_regular_expression(template: str, name: str) -> None:
    policy = NamespacePolicy(numbered(template))
    plain = re.compile("[^/]+".join(re.escape(literal) for literal in policy.literals))
    match = policy.match(name)
    assert (match is not None) == (plain.fullmatch(name) is not None)
    if match is not None and policy.is_pattern:
        assert policy.name.format(**match) == name


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
        (b"/messages", 'write namespaces=["/messages", NamespacePolicy('),
        ({"/messages": {}}, 'write namespaces=["/messages", NamespacePolicy('),
        (NamespacePolicy("/messages"), "must be a list, not NamespacePolicy"),
        (5, "must be a list, not int"),
        ([("/messages", ["a"])], 'NamespacePolicy("/messages", scopes='),
        ([None], "is no text"),
        (["/messages", 5], "is no text"),
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
    assert registry.policies is None
    assert registry.describe() is None


def test_without_a_list_a_catch_all_handler_alone_admits_nobody() -> None:
    assert Registry(None).resolve("/any", ANY_HANDLER) is None


@pytest.mark.parametrize(
    ("name", "admitted"),
    [
        ("/any", True),
        ("/{brace", True),
        ("/" + "a" * 255, True),
        ("/" + "a" * 256, False),
        ("/a\n", False),
        ("/\udcff", False),
        ("/a?token=x", False),
        ("/a,b", False),
    ],
)
def test_without_a_list_a_wildcard_server_admits_what_is_plain(name: str, admitted: bool) -> None:
    known = Registry(None).resolve(name, Server(wildcard=True))
    assert (known is not None) is admitted
    if known is not None:
        assert known.policy.name == name
        assert known.policy.token == "required"


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
    orders: list[list[str | NamespacePolicy]] = [[admin, "/t-{tenant}"], ["/t-{tenant}", admin]]
    for order in orders:
        registry = Registry(order)
        assert registry.resolve("/t-admin", ANY_HANDLER) == Known(admin)
        assert registry.resolve("/t-acme", ANY_HANDLER) == Known(NamespacePolicy("/t-{tenant}"), {"tenant": "acme"})


def test_the_right_one_of_several_patterns() -> None:
    registry = Registry(["/a-{x}", "/b-{x}"])
    known = registry.resolve("/b-1", ANY_HANDLER)
    assert known is not None
    assert known.policy.name == "/b-{x}"


def test_placeholders_can_not_be_changed() -> None:
    known = Registry(["/t-{tenant}"]).resolve("/t-a", ANY_HANDLER)
    assert known is not None
    with pytest.raises(TypeError):
        known.placeholders["tenant"] = "b"  # type: ignore[index]


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


def test_what_can_be_joined() -> None:
    registry = Registry(["/scheduler", "/messages", "/t-{tenant}", "/u-{user}", NamespacePolicy("/admin", hidden=True)])
    assert registry.names(Server(("/messages", "/t-acme", "/admin", "/more"))) == ("/admin", "/messages", "/t-{tenant}")
    assert registry.names(ANY_HANDLER) == ("/admin", "/messages", "/scheduler", "/t-{tenant}", "/u-{user}")
    assert registry.names(Server(wildcard=True)) == registry.names(ANY_HANDLER)
    assert registry.names(Server()) == ()


def test_what_can_be_joined_without_a_list() -> None:
    assert Registry(None).names(Server(("/b", "/a", "bare"))) == ("/a", "/b")
    assert Registry(None).names(Server(("/b",), wildcard=True)) == ("/b", "*")


def test_a_pattern_is_not_served_by_a_handler_of_an_exact_policy() -> None:
    registry = Registry(["/t-admin", "/t-{tenant}"])
    assert registry.names(Server(("/t-admin",))) == ("/t-admin",)


def test_describe_is_plain_values() -> None:
    registry = Registry(
        [
            "/messages",
            NamespacePolicy("/scheduler", scopes={"b", "a"}, authorize=allow),
            NamespacePolicy("/t-{t}", token="optional", claims={"x": "{t}", "n": 1}, hidden=True),
            NamespacePolicy("/f", authorize=Callable()),
        ]
    )
    described = registry.describe()
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


# --- explain (the rules have tests of their own) -------------------------------------------------------------------


def test_explain_knows_what_is_registered_hidden_and_declared() -> None:
    admin = NamespacePolicy("/admin", hidden=True)
    registry = Registry(["/messages", "/t-{tenant}", "/calls", admin])
    server = Server(("/messages", "/admin", "/t-acme"))
    assert registry.explain("/message", server).suggestion == "/messages"
    assert registry.explain("/message", server).registered == ("/messages", "/t-{tenant}")
    assert registry.explain("/calls", server).cause == "no_handler"
    assert registry.explain("/t-bolt", server).cause == "no_handler"
    assert registry.explain("/admin", server).cause == "hidden"
    assert registry.explain("/admim", server).suggestion is None
    assert '"/api/io/"' in registry.explain("/api", server, paths=["/api/io/"]).hint


def test_explain_without_a_list() -> None:
    unknown = Registry(None).explain("/schedulr", Server(("/messages", "/scheduler", "bare")))
    assert unknown.suggestion == "/scheduler"
    assert unknown.registered == ("/messages", "/scheduler")


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


def known(name: str = "/x", asked: str | None = None, **options: Any) -> Known:
    found = Registry([NamespacePolicy(name, **options)]).resolve(asked or name, ANY_HANDLER)
    assert found is not None
    return found


def holder(**claims: Any) -> Identity:
    return Identity("u1", claims=claims)


def test_nothing_asked_is_nothing_missing() -> None:
    assert authorise(known(), USER) is None
    assert authorise(known(token="none"), ANONYMOUS) is None
    assert authorise(known(token="optional"), ANONYMOUS) is None


def test_scopes() -> None:
    assert authorise(known(scopes={"a"}), USER) is None
    assert authorise(known(scopes={"a", "b"}), USER) is None
    refusal = authorise(known(scopes={"d", "a", "c"}), USER)
    assert refusal is not None
    assert (refusal.code, refusal.detail) == (RejectCode.INSUFFICIENT_SCOPE, "scope_missing")
    assert refusal.fields == {"required": ["a", "c", "d"], "missing": ["c", "d"]}


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ({"scopes": {"b", "a"}}, {"required": ["a", "b"], "claims": []}),
        ({"claims": {"x": "1"}}, {"required": [], "claims": ["x"]}),
    ],
)
def test_an_anonymous_client_has_no_scopes_and_no_claims(options: dict[str, Any], fields: dict[str, Any]) -> None:
    # Even an identity that was made by hand with claims, but without a subject.
    for identity in (ANONYMOUS, Identity(None, {"x": "1"}, frozenset({"a", "b"}))):
        refusal = authorise(known(token="optional", **options), identity)
        assert refusal is not None
        assert (refusal.code, refusal.detail) == (RejectCode.INSUFFICIENT_SCOPE, "anonymous")
        assert refusal.fields == fields


@pytest.mark.parametrize(
    ("wanted", "value"),
    [
        ("acme", "acme"),
        ("5", 5),
        (5, 5),
        (5, "5"),
        (-1, -1),
        (0, 0),
    ],
)
def test_claims_that_fit(wanted: str | int, value: object) -> None:
    assert authorise(known(claims={"c": wanted}), holder(c=value)) is None


@pytest.mark.parametrize(
    ("wanted", "value", "received"),
    [
        ("acme", "Acme", "Acme"),
        ("acme", "acme ", "acme "),
        ("acme", "acme\n", "acme\\u000a"),
        ("acme", "x" * 300, "x" * 256 + "…"),
        ("acme", "", "(str that counts for nothing)"),
        ("acme", ["acme"], "(list that counts for nothing)"),
        ("acme", {"acme": 1}, "(dict that counts for nothing)"),
        ("acme", b"acme", "(bytes that counts for nothing)"),
        ("None", None, None),
        ("True", True, "(bool that counts for nothing)"),
        (1, True, "(bool that counts for nothing)"),
        (0, False, "(bool that counts for nothing)"),
        ("1.0", 1.0, "(float that counts for nothing)"),
        (1, 1.0, "(float that counts for nothing)"),
        ("[]", [], "(list that counts for nothing)"),
        (5, "05", "05"),
        (5, "٥", "٥"),
        pytest.param(5, 10**5000, "(int that counts for nothing)", id="an integer that str() refuses"),
    ],
)
def test_claims_that_do_not_fit(wanted: str | int, value: object, received: str | None) -> None:
    refusal = authorise(known(claims={"c": wanted}), holder(c=value))
    assert refusal is not None
    assert (refusal.code, refusal.detail) == (RejectCode.INSUFFICIENT_SCOPE, "claim_mismatch")
    assert refusal.fields == {"claim": "c", "expected": str(wanted), "received": received}


def test_an_absent_claim_does_not_fit() -> None:
    refusal = authorise(known(claims={"c": "1"}), holder())
    assert refusal is not None
    assert refusal.fields["received"] is None


TENANT: dict[str, Any] = {"name": "/tenant-{tenant}", "claims": {"tenant_id": "{tenant}"}}


@pytest.mark.parametrize(
    ("asked", "value", "fits"),
    [
        ("/tenant-acme", "acme", True),
        ("/tenant-7", 7, True),
        ("/tenant-7", "7", True),
        ("/tenant-07", 7, False),
        ("/tenant-٧", 7, False),
        ("/tenant-acme", "bolt", False),
        ("/tenant-ACME", "acme", False),
        ("/tenant-None", None, False),
        ("/tenant-True", True, False),
        ("/tenant-True", "True", True),
        ("/tenant-{tenant}", "{tenant}", True),
        ("/tenant-{tenant}", "acme", False),
        ("/tenant-.*", "acme", False),
        ("/tenant-\\1", "acme", False),
        ("/tenant-é", "e\u0301", False),
    ],
)
def test_a_claim_tied_to_a_placeholder(asked: str, value: object, fits: bool) -> None:
    assert (authorise(known(**TENANT, asked=asked), holder(tenant_id=value)) is None) is fits


def test_what_a_client_puts_into_a_placeholder_is_not_read_as_one() -> None:
    found = known("/{a}/{b}", asked="/{b}/admin", claims={"c": "{a}:{b}"})
    assert authorise(found, holder(c="admin:admin")) is not None
    assert authorise(found, holder(c="{b}:admin")) is None
    refusal = authorise(found, holder(c="x"))
    assert refusal is not None
    assert refusal.fields["expected"] == "{b}:admin"


def test_every_claim_must_fit() -> None:
    found = known(claims={"a": 1, "b": 2})
    assert authorise(found, holder(a=1, b=2)) is None
    refusal = authorise(found, holder(a=1, b=3))
    assert refusal is not None
    assert refusal.fields["claim"] == "b"


@pytest.mark.parametrize(
    ("claims", "fits"),
    [
        ({"org": {"id": "acme"}}, True),
        ({"org.id": "acme"}, True),
        ({"org.id": "bolt", "org": {"id": "acme"}}, False),
        ({"org.id": None, "org": {"id": "acme"}}, False),
        ({"org": {"id": {"x": "acme"}}}, False),
        ({"org": "acme"}, False),
        ({"org": ["acme"]}, False),
        ({"org": {}}, False),
        ({}, False),
    ],
)
def test_a_claim_is_an_exact_name_first_and_a_path_then(claims: dict[str, Any], fits: bool) -> None:
    assert (authorise(known(claims={"org.id": "acme"}), Identity("u", claims)) is None) is fits


@given(
    st.text(alphabet=st.characters(exclude_characters="/?,"), min_size=1, max_size=20),
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.lists(st.text(), max_size=2),
)
def test_only_the_same_text_or_integer_opens_a_tenant(tenant: str, value: object) -> None:
    found = Registry([NamespacePolicy(**TENANT)]).resolve(f"/tenant-{tenant}", ANY_HANDLER)
    if found is None:
        return
    assert authorise(found, holder(tenant_id=tenant)) is None
    admitted = authorise(found, holder(tenant_id=value)) is None
    counts = isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool))
    assert admitted is (counts and str(value) == tenant)
