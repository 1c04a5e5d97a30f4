from __future__ import annotations

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


@pytest.mark.parametrize(("wanted", "value"), [("acme", "acme"), ("5", 5), (5, 5), (5, "5"), (-1, -1), (0, 0)])
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
