from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketguard.errors import ConfigurationError
from socketguard.namespaces.policy import NamespacePolicy
from tests.namespaces.support import TEMPLATES, allow, numbered, resolved

# --- NamespacePolicy ---------------------------------------------------------------------------------------------


def test_a_policy_asks_for_a_token_unless_told_otherwise() -> None:
    policy = NamespacePolicy("/messages")
    assert (policy.name, policy.token, policy.scopes, policy.claims) == ("/messages", "required", frozenset(), {})
    assert (policy.authorize, policy.hidden) == (None, False)
    assert (policy.is_pattern, policy.placeholders, policy.literals) == (False, (), ("/messages",))


def test_a_pattern_knows_its_pieces() -> None:
    policy = NamespacePolicy("/t-{tenant}/{room}/x")
    assert (policy.is_pattern, policy.placeholders, policy.literals) == (True, ("tenant", "room"), ("/t-", "/", "/x"))


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
        *((name, "is no text") for name in (None, 7)),
        ("*", 'has a "*"'),
        ("/*", '"/{name}"'),
        *((name, "without it") for name in ("/a?b=1", "/a,", "/a,b")),
        *((name, "a space") for name in ("/a b", " /a", "/a\u00a0b")),
        *((name, "control character") for name in ("/a\n", "/a\x00")),
        *((name, "invisible character") for name in ("/a\u200b", "/a\u202e", "/a\ud800")),
        ("/" + "a" * 256, "at most 256"),
        *((name, "no placeholder") for name in ("/{", "/}", "/{}", "/{a-b}", "/{1a}", "/{ä}", "/{{a}}")),
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
        *(({"claims": {name: "b"}}, "claims", "the name of a claim") for name in ("", 1)),
        ({"claims": {"a": ""}}, "claims", "not empty"),
        *(({"claims": {"a": value}}, "claims", "needs authorize=") for value in (True, None, ["x"], 1.5)),
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
        *(
            ("/tenant-{tenant}", f"/tenant-{tenant}", {"tenant": tenant})
            for tenant in ("acme", "a", "-", "{tenant}", "..", "٣", "a" * 248)
        ),
        *(
            ("/tenant-{tenant}", f"/tenant-{tenant}", None)
            for tenant in (
                "a" * 249,
                "",
                "a/b",
                "a/",
                "a\n",
                "a\r\n",
                "\x00",
                "a\u2028",
                "a\u200b",
                "\ud800",
                "a?x=y",
                "a,",
            )
        ),
        *(("/tenant-{tenant}", name, None) for name in ("/Tenant-a", "x/tenant-a", "tenant-a")),
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
        ("/a", "/a", {}),
        ("/a", "/b", None),
    ],
)
def test_what_placeholders_match(pattern: str, name: str, expected: dict[str, str] | None) -> None:
    assert resolved(pattern, name) == expected
    match = NamespacePolicy(pattern).match(name)
    assert (None if match is None else dict(match)) == expected


@given(TEMPLATES, st.text(alphabet="/a-", max_size=9).map(lambda text: f"/{text}"))
def test_matching_agrees_with_a_plain_regular_expression(template: str, name: str) -> None:
    policy = NamespacePolicy(numbered(template))
    plain = re.compile("[^/]+".join(re.escape(literal) for literal in policy.literals))
    match = policy.match(name)
    assert (match is not None) == (plain.fullmatch(name) is not None)
    if match is not None and policy.is_pattern:
        assert policy.name.format(**match) == name
