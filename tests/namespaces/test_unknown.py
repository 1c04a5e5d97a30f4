from __future__ import annotations

import dataclasses
import string
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketguard.namespaces.policy import NamespacePolicy
from socketguard.namespaces.registry import Registry
from socketguard.namespaces.unknown import Cause, Unknown, differing, distance, explain
from socketguard.text import neutralise
from tests.namespaces.support import ANY_HANDLER, Server

CRM = Server(("/messages", "/scheduler"))
DEFAULT = Server(("/",))
BOTH = Server(("/", "/messages"))
ADMIN = NamespacePolicy("/admin", hidden=True, scopes={"admin"})
TENANT = NamespacePolicy("/tenant-{tenant}", claims={"tenant_id": "{tenant}"})

Namespaces = Iterable[str | NamespacePolicy] | None


def why(asked: str, server: Server = CRM, namespaces: Namespaces = None, paths: tuple[str, ...] = ()) -> Unknown:
    return explain(Registry(namespaces), asked, server, paths)


SOCKET_IO = ("/socket.io/",)
API = ("/api/socket.io/",)

# asked, server, namespaces, paths; cause, suggestion, something that the hint says
TABLE: list[tuple[str, Server, Namespaces, tuple[str, ...], str, str | None, str]] = [
    # The server's side.
    ("/messages", Server(), None, (), "nothing_registered", None, "import the module"),
    ("/messages?x=1", Server(), ["/messages"], (), "nothing_registered", None, "the server object that the guard"),
    ("/messages", CRM, [], (), "nothing_declared", None, "leave namespaces= out"),
    ("/admin", Server(("/admin",)), [ADMIN], (), "hidden", None, "hidden=True"),
    ("/x-a b", ANY_HANDLER, [NamespacePolicy("/x-{x}", hidden=True)], (), "hidden", None, "'/x-{x}'"),
    ("/scheduler", CRM, ["/messages"], (), "not_declared", None, 'add "/scheduler" to namespaces='),
    ("/", BOTH, ["/messages"], (), "not_declared", None, 'write io("https://host/messages")'),
    ("/", DEFAULT, [ADMIN], (), "not_declared", None, 'add "/" to namespaces=.'),
    ("/calls", CRM, ["/messages", "/calls"], (), "no_handler", None, '@sio.on("connect", namespace="/calls")'),
    ("/admin", CRM, ["/messages", ADMIN], (), "no_handler", None, '@sio.on("connect", namespace="/admin")'),
    ("/tenant-acme", CRM, ["/messages", TENANT], (), "no_handler", None, '@sio.on("connect", namespace="*")'),
    ("/chat", Server(("chat",)), None, (), "registered_without_slash", None, 'write namespace="/chat"'),
    ("/chat", Server(("chat",)), ["/chat"], (), "no_handler", None, "'/chat' is declared to the guard"),
    ("xchat", Server(("chat",)), None, (), "missing_slash", None, "begins with a slash"),
    ("/chat", Server(("chat", "/a")), ["/a"], (), "registered_without_slash", None, 'namespace="chat"'),
    # The form of the name.
    ("/messages?token=x", CRM, None, (), "query_string", "/messages", "io(url, {auth: {token}})"),
    ("/nothing?token=x", CRM, None, (), "query_string", None, "io(url, {query: {…}})"),
    ("?token=x", CRM, None, (), "query_string", None, "query string"),
    ("/tenant-a?x", ANY_HANDLER, [TENANT], (), "query_string", "/tenant-a", "query string"),
    ("/" + "a" * 256, CRM, None, (), "too_long", None, "has 257 characters"),
    ("/messages\n", CRM, None, (), "stray_characters", "/messages", "remove them"),
    (" /messages ", CRM, None, (), "stray_characters", "/messages", "spaces"),
    ("/mess\u200bages", CRM, None, (), "stray_characters", "/messages", "invisible"),
    ("/\ud800", CRM, None, (), "stray_characters", None, "remove them"),
    ("/messages,", CRM, None, (), "comma", "/messages", "the comma ends the name"),
    ("/messages,/scheduler", CRM, None, (), "comma", "/messages", "one io(url) each"),
    ("/mess,ages", CRM, None, (), "comma", "/messages", "comma"),
    ("/x,y", CRM, None, (), "comma", None, "comma"),
    ("messages", CRM, None, (), "missing_slash", "/messages", 'io("https://host/messages")'),
    ("nothing", CRM, None, (), "missing_slash", None, "begins with a slash"),
    ("https://crm.example/messages", CRM, None, (), "missing_slash", "/messages", 'io("https://host/messages")'),
    ("wss://crm.example", BOTH, None, (), "missing_slash", "/", 'io("https://host")'),
    ("//messages", CRM, None, (), "doubled_slash", "/messages", 'io("https://host/messages")'),
    ("//", BOTH, None, (), "doubled_slash", "/", 'io("https://host")'),
    ("/a//b", CRM, None, (), "doubled_slash", None, 'io("https://host/messages")'),
    ("/messages/", CRM, None, (), "trailing_slash", "/messages", "slash at the end"),
    ("/a", Server(("/a/",)), None, (), "trailing_slash", "/a/", 'io("https://host/a/")'),
    ("/tenant-a/", ANY_HANDLER, [TENANT], (), "trailing_slash", "/tenant-a", "slash at the end"),
    ("/Messages", CRM, None, (), "other_case", "/messages", "Upper and lower case"),
    ("/straße", Server(("/STRASSE",)), None, (), "other_case", "/STRASSE", "Upper and lower case"),
    ("/%6dessages", CRM, None, (), "percent_encoded", "/messages", "percent-encoded"),
    ("/caf%C3%A9", Server(("/café",)), None, (), "percent_encoded", "/café", "percent-encoded"),
    # The default namespace.
    ("/", CRM, None, (), "default_namespace", None, 'namespaces=["/messages"]'),
    ("", CRM, None, (), "default_namespace", None, "No namespace given"),
    ("/", Server(("/chat",)), None, (), "default_namespace", "/chat", 'io("https://host/chat")'),
    ("/", Server(("/chat",)), ["/chat", ADMIN], (), "default_namespace", "/chat", 'io("https://host/chat")'),
    ("/", Server(("bare",)), None, (), "default_namespace", None, 'io("https://host/messages")'),
    # A URL path taken for a namespace.
    ("/api/", DEFAULT, None, API, "url_path", "/", 'io("https://host", {path: "/api/socket.io/"})'),
    ("/API", DEFAULT, None, API, "url_path", "/", 'io("https://host", {path: "/api/socket.io/"})'),
    ("/api/socket.io", DEFAULT, None, API, "url_path", "/", '{path: "/api/socket.io/"}'),
    ("/v2", CRM, None, ("/a/", "/v2/socket.io/"), "url_path", None, 'messages", {path: "/v2/socket.io/"}'),
    ("/socket.io", DEFAULT, None, (), "url_path", "/", 'io("https://host", {path: "/socket.io/"})'),
    ("/socket.io/", CRM, None, SOCKET_IO, "url_path", None, 'io("https://host/messages", {path: "/socket.io/"})'),
    ("/socket.io/messages", CRM, None, SOCKET_IO, "url_path", "/messages", '/messages", {path: "/socket.io/"}'),
    ("/ws", DEFAULT, None, ("/ws",), "url_path", "/", 'io("https://host", {path: "/ws"})'),
    ("/ws", DEFAULT, None, SOCKET_IO, "url_path", "/", 'the path is "/ws/socket.io/"'),
    ("/ws", BOTH, None, SOCKET_IO, "url_path", "/", 'io("https://host", {path: "/socket.io/"})'),
    ("/api/messages", CRM, None, SOCKET_IO, "url_path", "/messages", 'the path is "/api/socket.io/"'),
    ("/api/v1", CRM, None, (), "url_path", None, 'io("https://host/messages", {path: "/socket.io/"})'),
    # Nearly a name.
    ("/schedulr", CRM, None, (), "typo", "/scheduler", 'io("https://host/scheduler")'),
    ("/shceduler", CRM, None, (), "typo", "/scheduler", "looks misspelt"),
    ("/Mesage", CRM, None, (), "typo", "/messages", "looks misspelt"),
    ("/message", CRM, None, (), "typo", "/messages", "looks misspelt"),
    ("/mmessages", CRM, None, (), "typo", "/messages", "looks misspelt"),
    ("/message-s", Server(("/messages", "/message-x")), None, (), "typo", "/message-x", "looks misspelt"),
    ("/messagelist", CRM, None, (), "typo", "/messages", 'namespace="/messagelist"'),
    ("/messages/12", CRM, None, (), "sub_path", "/messages", '"/messages/{name}"'),
    ("/tenant-a/b", ANY_HANDLER, [TENANT], (), "pattern_nearly", "/tenant-{tenant}", "without a slash"),
    ("/tenant-", ANY_HANDLER, [TENANT], (), "pattern_nearly", "/tenant-{tenant}", "one or more characters"),
    ("/tenant", ANY_HANDLER, [TENANT], (), "pattern_nearly", "/tenant-{tenant}", "one or more characters"),
    ("/Tenant-a", ANY_HANDLER, [TENANT], (), "pattern_nearly", "/tenant-{tenant}", "upper and lower case"),
    ("/tennant-a", ANY_HANDLER, [TENANT], (), "pattern_nearly", "/tenant-{tenant}", "nearly matches"),
    ("/x/1/z", ANY_HANDLER, ["/X/{a}/y{b}/z"], (), "not_registered", None, "not registered"),
    ("/x/1/y/z", ANY_HANDLER, ["/X/{a}/y{b}/z"], (), "pattern_nearly", "/X/{a}/y{b}/z", "nearly matches"),
    ("/x/1/y", ANY_HANDLER, ["/X/{a}/y{b}/z"], (), "not_registered", None, "not registered"),
    ("/" + "ab" * 33, ANY_HANDLER, ["/" + "ab" * 32 + "{x}y"], (), "not_registered", None, "not registered"),
    # Nothing like it.
    ("/chat", DEFAULT, None, (), "only_default", "/", 'io("https://host", {path: "/socket.io/"})'),
    ("/chat", BOTH, None, (), "not_registered", None, 'register handlers with namespace="/chat", or'),
    ("/zzz", CRM, ["/messages"], (), "not_registered", None, 'namespace="/zzz" and add it to namespaces='),
    ("/zz", Server(("/zx",)), None, (), "not_registered", None, "not registered in this process"),
    ("/zz" * 30, CRM, None, (), "not_registered", None, "not registered in this process"),
    # What a hidden name would have explained stays unsaid.
    ("/admi", Server(("/admin", "/a")), ["/a", ADMIN], (), "not_registered", None, "not registered"),
    ("/admin/", Server(("/admin", "/a")), ["/a", ADMIN], (), "not_registered", None, "not registered"),
    ("/Admin", Server(("/admin", "/a")), ["/a", ADMIN], (), "not_registered", None, "not registered"),
    ("admin", Server(("/admin", "/a")), ["/a", ADMIN], (), "missing_slash", None, 'io("https://host/a")'),
    ("/admin?", Server(("/admin", "/a")), ["/a", ADMIN], (), "query_string", None, "query string"),
    ("/admin/x", Server(("/admin", "/a")), ["/a", ADMIN], (), "not_registered", None, "not registered"),
    ("/x/admin", Server(("/admin", "/a")), ["/a", ADMIN], (), "not_registered", None, "not registered"),
    ("/", Server(("/admin",)), [ADMIN], (), "default_namespace", None, 'io("https://host/messages")'),
    ("/x-/", ANY_HANDLER, [NamespacePolicy("/x-{x}", hidden=True)], (), "not_registered", None, "not registered"),
]


@pytest.mark.parametrize(("asked", "server", "namespaces", "paths", "cause", "suggestion", "says"), TABLE)
def test_why_a_name_is_unknown(
    asked: str,
    server: Server,
    namespaces: Namespaces,
    paths: tuple[str, ...],
    cause: str,
    suggestion: str | None,
    says: str,
) -> None:
    unknown = why(asked, server, namespaces, paths)
    assert (unknown.cause, unknown.suggestion) == (cause, suggestion)
    assert says in unknown.hint
    assert unknown.hint.endswith(".")
    if suggestion is not None and "{" not in suggestion:
        assert Registry(namespaces).resolve(suggestion, server) is not None, "a suggestion can be joined"


def test_every_cause_is_in_the_table() -> None:
    assert {row[4] for row in TABLE} == set(get_args(Cause))


def test_what_the_story_of_a_misspelt_name_says() -> None:
    hint = (
        'The name looks misspelt: write io("https://host/scheduler"), or register handlers with namespace="/schedulr".'
    )
    assert why("/schedulr") == Unknown("/schedulr", ("/messages", "/scheduler"), "/scheduler", "typo", hint)


def test_what_could_have_been_joined_is_listed_without_what_is_hidden() -> None:
    server = Server(("/a", "/b", "/admin", "/undeclared", "/tenant-x"))
    unknown = why("/zzz", server, ["/b", "/a", "/unserved", ADMIN, TENANT, "/user-{user}"])
    assert unknown.registered == ("/a", "/b", "/tenant-{tenant}")


def test_at_most_twenty_names_that_clients_can_reach_are_listed() -> None:
    server = Server(("bare", *(f"/room-{number:02}" for number in range(50))))
    assert why("/zzz", server).registered == tuple(f"/room-{number:02}" for number in range(20))
    assert why("/zzz", Server(("/a", "bare"))).registered == ("/a",)


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ("/a\nERROR forged", "/a\\u000aERROR forged"),
        ("/\u202egnp", "/\\u202egnp"),
        ("/\ud800", "/\\ud800"),
        ("/" + "a" * 127, "/" + "a" * 127),
        ("/" + "a" * 128, "/" + "a" * 127 + "…"),
        ("/" + "a" * 100_000, "/" + "a" * 127 + "…"),
        ("/m?token=SECRET", "/m?…"),
        ("/m?", "/m?…"),
        ("/" + "m" * 600 + "?token=SECRET", "/" + "m" * 127 + "…"),
        ("/eyJhbGciOiJIUzI1NiJ9.SECRET.SECRET", "/…"),
        ("/t-eyJhbGciOiJIUzI1NiJ9.SECRET.SECRET/x", "/t-…/x"),
        ("/eyJhbGciOiJIUzI1NiJ9.SECRET", "/…"),
        ("/eyJ" + "a" * 200 + ".SECRET.SECRET", "/…"),
        ("/m&token=SECRET", "/m&token=…"),
        ("/m;access_token=SECRET/x", "/m;access_token=…/x"),
        ("/m#api_key=SECRET", "/m#api_key=…"),
        ("/m&client_secret=SECRET", "/m&client_secret=…"),
        ("/m&jwt=SECRET", "/m&jwt=…"),
        ("/m&PASSWORD=SECRET", "/m&PASSWORD=…"),
        ("/room=5", "/room=5"),
    ],
)
def test_the_asked_name_is_harmless_in_a_log_line(asked: str, shown: str) -> None:
    unknown = why(asked)
    assert unknown.requested == shown
    assert "SECRET" not in repr(unknown)


def test_a_token_in_a_placeholder_is_in_no_field() -> None:
    unknown = why("/tenant-eyJhbGciOiJIUzI1NiJ9.SECRET.SECRET/", ANY_HANDLER, [TENANT])
    assert unknown.suggestion == "/tenant-…"
    assert "SECRET" not in repr(unknown)


def test_only_so_much_is_compared_and_what_is_cheap_to_compare_is_not_lost() -> None:
    body = "ab" * 24
    # All but the last differ in the first and the last letter, so that everything between has to be compared.
    dear = [f"/{first}{body}{last}" for first in "fgh" for last in "fgh"]
    asked, near = f"/e{body}e", f"/z{body}e"
    assert why(asked, Server((*dear, near))).suggestion == near
    assert why(asked, Server(tuple(dear))).suggestion == dear[0]


@dataclass(frozen=True)
class OnlyByDefault(Server):
    """python-socketio lists "/" by itself; nobody registered anything there."""

    def serves(self, name: str) -> bool:
        return name == "/" or super().serves(name)


def test_a_default_namespace_without_handlers_is_not_recommended() -> None:
    server = OnlyByDefault(("/messages",))
    assert Registry(None).resolve("/", server) is None
    unknown = why("/socket.io", server)
    assert (unknown.cause, unknown.suggestion, unknown.registered) == ("url_path", None, ("/messages",))
    assert 'io("https://host/messages", {path: "/socket.io/"})' in unknown.hint
    assert why("/messages", OnlyByDefault()).cause == "nothing_registered"
    assert Registry(["/messages"]).findings(server) == []


# --- distance ----------------------------------------------------------------------------------------------------


def plain_distance(left: str, right: str) -> int:
    """The textbook table of the restricted Damerau-Levenshtein distance."""
    table = {(i, -1): i + 1 for i in range(-1, len(left))} | {(-1, j): j + 1 for j in range(-1, len(right))}
    for i, x in enumerate(left):
        for j, y in enumerate(right):
            table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (x != y))
            if i and j and x == right[j - 1] and left[i - 1] == y:
                table[i, j] = min(table[i, j], table[i - 2, j - 2] + 1)
    return table[len(left) - 1, len(right) - 1]


WORDS = st.text(alphabet="abc", max_size=7)


@given(WORDS, WORDS, st.integers(0, 3))
def test_the_distance_is_that_of_the_textbook_up_to_the_limit(left: str, right: str, limit: int) -> None:
    expected = min(plain_distance(left, right), limit + 1)
    assert distance(left, right, limit) == expected
    assert distance(*differing(left, right), limit) == expected


# --- whatever a client sends -------------------------------------------------------------------------------------

NAMES = st.text(alphabet="abAB-/", max_size=6).map(lambda text: f"/{text}")
ASKED = st.one_of(
    st.text(alphabet=st.characters()),
    st.text(alphabet="/abABeyJ.-_?,%{}:= \n\u200b\ud800", max_size=40),
    st.text(alphabet=string.printable, min_size=200, max_size=300),
    st.sampled_from([row[0] for row in TABLE]),
)


@given(
    asked=ASKED,
    exact=st.lists(NAMES | st.text(max_size=4), max_size=4),
    declared=st.none() | st.lists(st.tuples(NAMES, st.booleans()), max_size=4, unique_by=lambda pair: pair[0]),
    pattern=st.sampled_from([None, TENANT, NamespacePolicy("/a{x}", hidden=True), NamespacePolicy("/{x}/b-{y}")]),
    flags=st.tuples(st.booleans(), st.booleans()),
    paths=st.lists(st.sampled_from(["/socket.io/", "/a/socket.io", "/a", "", "/"]), max_size=2).map(tuple),
)
def test_any_name_is_explained_and_nothing_hidden_suggested(
    asked: str,
    exact: list[str],
    declared: list[tuple[str, bool]] | None,
    pattern: NamespacePolicy | None,
    flags: tuple[bool, bool],
    paths: tuple[str, ...],
) -> None:
    namespaces: list[Any] | None = None
    if declared is not None:
        namespaces = [NamespacePolicy(name, hidden=hidden) for name, hidden in declared]
        namespaces += [pattern] if pattern is not None else []
    server = Server(tuple(exact), *flags)
    registry = Registry(namespaces)
    unknown = explain(registry, asked, server, paths)

    assert unknown.cause in set(get_args(Cause))
    assert unknown.hint.endswith(".")
    assert len(unknown.requested) <= 6 * 129
    for text in (unknown.requested, unknown.hint, unknown.suggestion or "", *unknown.registered):
        assert neutralise(text, 10_000) == text
        text.encode()

    hidden = {policy.name for policy in registry.policies or () if policy.hidden}
    assert not hidden.intersection(unknown.registered)
    if unknown.suggestion is not None:
        assert unknown.suggestion not in hidden
        found = registry.resolve(unknown.suggestion, server)
        assert found is None or not found.policy.hidden


def test_hidden_names_stay_out_of_every_answer_to_another_name() -> None:
    server = Server(("/admin", "/messages"))
    registry = Registry(["/messages", ADMIN])
    for row in TABLE:
        if "admin" not in row[0].casefold():
            assert "/admin" not in repr(dataclasses.astuple(explain(registry, row[0], server))).replace(row[0], "")
