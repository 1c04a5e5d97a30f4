"""Why a namespace is unknown, in words that say what to change.

A client that asks for an unknown namespace learns only that it is invalid; the log gets the reason: a *cause* (a word
of a closed set), a *hint* (a whole sentence) and, where there is one, the name that was probably meant.

What is known here of clients: in ``io("https://host/api")`` of socket.io-client everything after the host is the
namespace and never a URL path (https://socket.io/docs/v4/client-api/#iourl), the default serializer of python-socketio
ends a name at the first comma and drops everything from a ``?`` on, and its msgpack serializer does neither.
"""

from __future__ import annotations

import difflib
import heapq
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote

from socketguard.text import neutralise

from .policy import LONGEST_NAME, Served
from .registry import Registry

__all__ = ["Cause", "Unknown", "differing", "distance", "explain"]

_AtTheServer = Literal["nothing_registered", "nothing_declared", "hidden", "not_declared", "no_handler"]
_OfLetters = Literal["query_string", "too_long", "stray_characters", "comma", "other_case", "percent_encoded"]
_OfSlashes = Literal[
    "registered_without_slash", "default_namespace", "missing_slash", "doubled_slash", "trailing_slash"
]
_OfNothingElse = Literal["url_path", "typo", "sub_path", "pattern_nearly", "only_default", "not_registered"]
Cause = Literal[_AtTheServer, _OfLetters, _OfSlashes, _OfNothingElse]

_LISTED = 20  # names in one log line
_SHOWN = 128  # characters of a client's name in a log line
_COMPARED = 64  # characters; comparing longer names would cost a stranger's CONNECT more than a millisecond
_BUDGET = 256  # characters that are compared one by one, for the same reason
_CANDIDATES = 30  # likewise, names and patterns
_ALIKE = 4  # likewise, names that difflib is asked about
_DEFAULT_PATH = "/socket.io/"
_URL_WORDS = frozenset({"api", "ws", "wss", "websocket", "websockets", "socket", "sockets", "socketio", "sio"})
_SCHEME = re.compile("[A-Za-z][A-Za-z0-9+.-]*://[^/]*")
# A JWT, or the value of what calls itself a credential.
_SECRET = re.compile(
    r"(?i)(\b(?:\w*token|jwt|\w*key|\w*secret|password|auth|authorization)=)[^/\"' ]+"
    r"|(?<![a-z0-9])eyJ[a-z0-9_-]++(?:\.[a-z0-9_-]*)+"
)


@dataclass(frozen=True, slots=True)
class Unknown:
    """Why nobody can join the namespace that was asked for. All of it is for the log, none of it for the client."""

    requested: str
    """Harmless to print, at most 128 characters, query strings left out."""
    registered: tuple[str, ...]
    """What could have been joined, at most 20 names; patterns as written, hidden ones left out."""
    suggestion: str | None
    cause: Cause
    hint: str


def explain(registry: Registry, asked: str, served: Served, paths: Sequence[str] = ()) -> Unknown:
    """The first cause that applies. Hidden namespaces appear only when the client asked for them by name."""
    question = _Question(registry, asked, served, paths)
    cause, hint, suggestion = next(_causes(question))
    return Unknown(
        requested=question.shown,
        registered=tuple(neutralise(name, LONGEST_NAME) for name in question.listed[:_LISTED]),
        suggestion=None if suggestion is None else _harmless(suggestion, LONGEST_NAME),
        cause=cause,
        # A name made of a pattern and a client's text may stand in it.
        hint=_harmless(hint, 1024),
    )


class _Question:
    """What was asked for, and what there is."""

    def __init__(self, registry: Registry, asked: str, served: Served, paths: Sequence[str]) -> None:
        self.registry = registry
        self.asked = asked
        self.served = served
        self.paths = paths
        self.shown = _presentable(asked)
        self.cover = registry.cover(asked)
        visible = [policy for policy in registry.joinable(served) if not policy.hidden]
        self.exact = [policy.name for policy in visible if not policy.is_pattern]
        self.patterns = {policy.name: policy.literals for policy in visible if policy.is_pattern}
        self.listed = sorted([*self.exact, *self.patterns])
        self.default = "/" if "/" in self.exact else None
        # What to show in a line of client code.
        self.example = self.default or (self.listed[0] if self.listed else "/")
        self.path = paths[0] if paths else _DEFAULT_PATH

    def joinable(self, name: str) -> bool:
        """Whether a name can be joined and is not hidden."""
        known = self.registry.resolve(name, self.served)
        return known is not None and not known.policy.hidden

    def if_joinable(self, *names: str) -> str | None:
        return next((name for name in names if self.joinable(name)), None)

    def ending(self) -> str | None:
        """The longest name with which the asked one ends."""
        return max((name for name in self.exact if name != "/" and self.asked.endswith(name)), key=len, default=None)


_Answer = tuple[Cause, str, str | None]


def _causes(q: _Question) -> Iterator[_Answer]:
    """All causes that apply, the most specific first, each with its hint and suggestion; the last always applies."""
    yield from _at_the_server(q)
    yield from _in_the_form(q)
    yield from _in_the_path(q)
    yield from _nearly(q)
    if q.listed == ["/"]:
        yield (
            "only_default",
            "Only the default namespace '/' can be joined, and what follows the host in io(url) is the namespace: "
            f'write {_io("/", q.path)}, or register handlers with namespace="{q.shown}".',
            "/",
        )
    declare = "" if q.registry.policies is None else " and add it to namespaces="
    yield (
        "not_registered",
        f"'{q.shown}' is not registered in this process: register handlers with namespace=\"{q.shown}\"{declare}, or "
        "correct the name in the client.",
        None,
    )


def _at_the_server(q: _Question) -> Iterator[_Answer]:
    served, policies = q.served, q.registry.policies
    if not (served.names() or served.catch_all or served.wildcard):
        yield (
            "nothing_registered",
            "No namespace has a handler in this process: import the module that registers the handlers before the "
            "server starts, and check that it registers them on the server object that the guard protects.",
            None,
        )
    if policies == ():
        yield (
            "nothing_declared",
            "The guard was given an empty list: leave namespaces= out to take what is registered, or fill it.",
            None,
        )
    if q.cover is not None and q.cover.policy.hidden and q.registry.resolve(q.asked, served) is not None:
        yield (
            "hidden",
            f"'{q.shown}' exists, but its policy '{q.cover.policy.name}' has hidden=True and this client may not "
            "enter, hence the answer: check the client's token against the policy's token, scopes, claims and "
            "authorize.",
            None,
        )
    if policies is not None and q.cover is None and served.serves(q.asked) and (q.asked != "/" or served.default):
        forgotten = ""
        if q.asked == "/" and q.listed:
            forgotten = f", or, when the client forgot its namespace, write {_io(q.listed[0])}"
        yield (
            "not_declared",
            f"python-socketio serves '{q.shown}', but the guard does not declare it: add \"{q.shown}\" to namespaces="
            f"{forgotten}.",
            None,
        )
    if q.cover is not None and q.cover.policy.name == q.asked:
        yield (
            "no_handler",
            f"'{q.shown}' is declared to the guard, but python-socketio has no handler for it in this process: import "
            f'the module with @sio.on("connect", namespace="{q.shown}") before the server starts.',
            None,
        )
    elif q.cover is not None:
        yield (
            "no_handler",
            f"'{q.cover.policy.name}' is declared to the guard, but python-socketio has no handler for '{q.shown}' in "
            'this process: register @sio.on("connect", namespace="*") before the server starts.',
            None,
        )


def _in_the_form(q: _Question) -> Iterator[_Answer]:
    asked = q.asked
    name, mark, _ = asked.partition("?")
    if mark:
        yield (
            "query_string",
            "The name has a query string, which is no part of a namespace: send parameters with io(url, {query: {…}}) "
            "and a token with io(url, {auth: {token}}).",
            q.if_joinable(name),
        )
    if len(asked) > LONGEST_NAME:
        yield (
            "too_long",
            f"The name has {len(asked)} characters, but at most {LONGEST_NAME} are matched: shorten it.",
            None,
        )
    name = "".join(c for c in asked if not c.isspace() and neutralise(c, 1) == c)
    if name != asked:
        yield (
            "stray_characters",
            "The name has spaces, control characters or invisible characters in it: remove them where the client "
            "builds the name.",
            q.if_joinable(name),
        )
    bare = asked[1:]
    if asked.startswith("/") and bare and not bare.startswith("/") and q.served.serves(bare):
        yield (
            "registered_without_slash",
            f'The handlers are registered with namespace="{q.shown[1:]}", which no client can reach: write '
            f'namespace="{q.shown}", with a leading slash.',
            None,
        )
    if asked in ("", "/"):
        name = q.example if q.listed else "/messages"
        yield (
            "default_namespace",
            f'No namespace given: write {_io(name)}, or in Python connect(url, namespaces=["{name}"]). Without one a '
            "client asks for the default namespace '/', where nothing is registered.",
            q.listed[0] if len(q.listed) == 1 else None,
        )
    if "," in asked:
        yield (
            "comma",
            "The name has a comma in it, and in a Socket.IO packet the comma ends the name: remove it; several "
            "namespaces need one io(url) each.",
            q.if_joinable(asked.partition(",")[0], asked.replace(",", "")),
        )
    if not asked.startswith("/"):
        scheme = _SCHEME.match(asked)
        found = q.if_joinable((asked[scheme.end() :] or "/") if scheme else f"/{asked}")
        yield (
            "missing_slash",
            f"A namespace begins with a slash and holds no host: write {_io(found or q.example)}.",
            found,
        )
    name = re.sub("/{2,}", "/", asked)
    if name != asked:
        found = q.if_joinable(name)
        yield (
            "doubled_slash",
            "The name has two slashes in a row, which happens when a base URL that ends with a slash is put before a "
            f"name: write {_io(found or q.example)}.",
            found,
        )
    if found := q.if_joinable(asked.rstrip("/"), f"{asked}/"):
        yield "trailing_slash", f"The slash at the end of a namespace counts: write {_io(found)}.", found
    for name in q.exact:
        if name.casefold() == asked.casefold():
            yield "other_case", f"Upper and lower case count in a namespace: write {_io(name)}.", name
    name = unquote(asked)
    if name != asked and q.joinable(name):
        yield "percent_encoded", f"A namespace is not percent-encoded: write {_io(name)}.", name


def _in_the_path(q: _Question) -> Iterator[_Answer]:
    asked = q.asked.rstrip("/").casefold() + "/"
    path = next((path for path in q.paths if f"{path.rstrip('/')}/".casefold().startswith(asked)), None)
    # /socket.io/messages: the namespace is there, after the path.
    inner = q.ending()
    if (path is not None and asked != "/") or "socket.io" in asked.split("/"):
        yield (
            "url_path",
            f"'{q.shown}' is the URL path of the endpoint, but what follows the host in io(url) is the namespace: "
            f"write {_io(inner or q.example, path or q.path)}.",
            inner or q.default,
        )
    if (name := _misspelt(q)) is not None:
        yield _typo(q, name)
    if inner is not None or q.asked.split("/")[1].casefold() in _URL_WORDS:
        prefix = _presentable((q.asked.removesuffix(inner) if inner else q.asked).rstrip("/"))
        yield (
            "url_path",
            f"'{prefix}' looks like a URL path, but what follows the host in io(url) is the namespace: write "
            f"{_io(inner or q.example, q.path)}; where a proxy serves the endpoint below '{prefix}', the path is "
            f'"{prefix}{_DEFAULT_PATH}".',
            inner or q.default,
        )
    above = max((name for name in q.exact if name != "/" and q.asked.startswith(f"{name}/")), key=len, default=None)
    if above is not None:
        yield (
            "sub_path",
            f"Namespaces have no hierarchy, '{above}' does not include '{q.shown}': join '{above}' and use a room, or "
            f'declare "{above}/{{name}}" to the guard and register handlers for namespace="*".',
            above,
        )


def _nearly(q: _Question) -> Iterator[_Answer]:
    folded = q.asked.casefold()
    patterns = [*q.patterns.items()][:_CANDIDATES]
    for matches in (_loosely, _begins_alike):
        for pattern, literals in patterns:
            if matches(literals, folded):
                yield (
                    "pattern_nearly",
                    f"'{pattern}' nearly matches: each placeholder in braces stands for one or more characters without "
                    "a slash, and the rest must be the same, upper and lower case included.",
                    pattern,
                )
    if 4 <= len(q.asked) <= _COMPARED:
        letters = set(q.asked)
        names = [name for name in q.exact if len(name) <= _COMPARED]
        # difflib is slow: only the names that share the most letters are shown to it.
        names = heapq.nlargest(_ALIKE, names, key=lambda name: len(letters.intersection(name)))
        for name in difflib.get_close_matches(q.asked, names, n=1, cutoff=0.75):
            yield _typo(q, name)


def _typo(q: _Question, name: str) -> _Answer:
    hint = f'The name looks misspelt: write {_io(name)}, or register handlers with namespace="{q.shown}".'
    return "typo", hint, name


def _misspelt(q: _Question) -> str | None:
    """The name of which the asked one is a misspelling."""
    # Words of one or two letters are not misspelt but different. One slip in a word of three to five letters, two in
    # a longer one.
    if not 4 <= len(q.asked) <= _COMPARED:
        return None
    folded, letters = q.asked.casefold(), set(q.asked.casefold())
    limit = min((len(q.asked) - 1) // 3, 2)
    best = None
    # A slip changes the set of letters by two at most: cheap to see, and few names are left to compare.
    near = [n for n in q.exact if n != "/" and abs(len(n) - len(q.asked)) <= limit]
    near = [n for n in near if len(letters.symmetric_difference(n.casefold())) <= 2 * limit]
    budget = _BUDGET
    for name in near[:_CANDIDATES]:
        ours, theirs = differing(folded, name.casefold())
        if len(ours) > budget:
            continue
        budget -= len(ours)
        slips = distance(ours, theirs, limit)
        if slips <= limit:
            best, limit = name, slips - 1
    return best


def _loosely(literals: tuple[str, ...], text: str) -> bool:
    """Whether a pattern would match if case did not count and placeholders matched anything, a slash or nothing too."""
    first, *middle, last = (literal.casefold() for literal in literals)
    if not text.startswith(first):
        return False
    position = len(first)
    for literal in middle:
        found = text.find(literal, position)
        if found < 0:
            return False
        position = found + len(literal)
    return text.endswith(last) and len(text) - len(last) >= position


def _begins_alike(literals: tuple[str, ...], text: str) -> bool:
    """Whether a text begins like a pattern, but for one slip."""
    first = literals[0].casefold()
    if not 4 <= len(first) <= _COMPARED:
        return False
    return any(distance(*differing(text[: len(first) + more], first), 1) <= 1 for more in (0, 1, -1))


def distance(left: str, right: str, limit: int) -> int:
    """Insertions, deletions, replacements and swaps of neighbours between two texts; ``limit + 1`` for any more."""
    beyond = limit + 1
    older: list[int] = []
    before: list[int] = []
    row = list(range(len(right) + 1))
    for i, x in enumerate(left, 1):
        older, before, row = before, row, [beyond] * (len(right) + 1)
        row[0] = i
        # Only cells that can be within the limit are filled.
        for j in range(max(1, i - limit), min(len(right), i + limit) + 1):
            y = right[j - 1]
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y))
            if i > 1 and j > 1 and x == right[j - 2] and left[i - 2] == y:
                cost = min(cost, older[j - 2] + 1)
            row[j] = cost
        if min(row) > limit:
            return beyond
    return min(row[-1], beyond)


def differing(left: str, right: str) -> tuple[str, str]:
    """Two texts without what they share at the beginning and at the end; that never changes their distance."""
    start = _shared(left, right)
    end = _shared(left[start:][::-1], right[start:][::-1])
    return left[start : len(left) - end], right[start : len(right) - end]


def _shared(left: str, right: str) -> int:
    """How many characters two texts begin with alike."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((index for index, (x, y) in pairs if x != y), min(len(left), len(right)))


def _io(namespace: str, path: str | None = None) -> str:
    url = "https://host" + ("" if namespace == "/" else namespace)
    return f'io("{url}")' if path is None else f'io("{url}", {{path: "{path}"}})'


def _presentable(name: str) -> str:
    """A client's name as it may stand in a log line."""
    # People put tokens into the query string of a namespace. The first cut bounds the work on a long name.
    head, mark, _ = name[:512].partition("?")
    return _harmless(head + ("?…" if mark else ""), _SHOWN)


def _harmless(text: str, limit: int) -> str:
    return neutralise(_SECRET.sub(lambda match: f"{match[1] or ''}…", text), limit)
