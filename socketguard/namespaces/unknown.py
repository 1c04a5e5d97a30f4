"""Why a namespace is unknown, in words that say what to change. This module is pure.

A client that asks for an unknown namespace learns only that it is invalid; the log gets the reason. Each reason is one
small function, and `RULES` holds them in the order in which they are asked: the first one that applies gives the
*cause* (a word of a closed set), the *hint* (a whole sentence) and, where there is one, the *suggestion*.

What the rules know of clients: in ``io("https://host/api")`` of socket.io-client everything after the host is the
namespace and never a URL path (https://socket.io/docs/v4/client-api/#iourl), the default serializer of python-socketio
ends a name at the first comma and drops everything from a ``?`` on, and its msgpack serializer does neither.
"""

from __future__ import annotations

import difflib
import heapq
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from socketguard.text import neutralise

from .policy import LONGEST_NAME, Served

__all__ = ["RULES", "Question", "Unknown", "diagnose"]

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
    """Why nobody can join the namespace that was asked for. All of it is for the log, none of it for the client.

    Attributes:
        requested: the name that was asked for, harmless to print, at most 128 characters, query strings left out.
        registered: what could have been joined, at most 20 names; patterns as written, hidden ones left out.
        suggestion: the name that was probably meant.
        cause: one word of the closed set in `RULES`.
        hint: a whole sentence that says what to do.
    """

    requested: str
    registered: tuple[str, ...]
    suggestion: str | None
    cause: str
    hint: str


@dataclass(frozen=True, slots=True)
class Question:
    """Everything the rules may look at.

    Attributes:
        asked: the name as the client sent it.
        served: what the server has.
        joinable: whether a name can be joined and is not hidden.
        exact: the exact names that can be joined and are not hidden.
        patterns: likewise the patterns, each with the literal pieces around its placeholders.
        declared: the names of all policies; None when the guard was given no list.
        covered_by: the name of the policy that covers ``asked``, whether or not there is a handler.
        hidden: whether ``asked`` can be joined, but is hidden.
        paths: URL paths of the Socket.IO endpoint, such as ``/socket.io/``.
    """

    asked: str
    served: Served
    joinable: Callable[[str], bool]
    exact: tuple[str, ...] = ()
    patterns: Mapping[str, tuple[str, ...]] | None = None
    declared: tuple[str, ...] | None = None
    covered_by: str | None = None
    hidden: bool = False
    paths: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """The asked name as it may stand in a log line."""
        return _presentable(self.asked)

    @property
    def listed(self) -> list[str]:
        """All that can be joined and is not hidden, sorted."""
        return sorted([*self.exact, *(self.patterns or ())])

    @property
    def example(self) -> str:
        """The namespace to show in a line of client code."""
        if self.default is not None:
            return "/"
        return self.listed[0] if self.listed else "/"

    @property
    def default(self) -> str | None:
        """The default namespace, when it is more than python-socketio's own default without any handler."""
        return "/" if "/" in self.exact else None

    @property
    def path(self) -> str:
        """The URL path to show in a line of client code."""
        return self.paths[0] if self.paths else _DEFAULT_PATH


Answer = tuple[str, str | None]
Rule = Callable[[Question], Answer | None]


def _presentable(name: str) -> str:
    # People put tokens into the query string of a namespace. The first cut bounds the work on a long name.
    head, mark, _ = name[:512].partition("?")
    return _harmless(head + ("?…" if mark else ""), _SHOWN)


def _harmless(text: str, limit: int) -> str:
    return neutralise(_SECRET.sub(lambda match: f"{match[1] or ''}…", text), limit)


def _io(namespace: str, path: str | None = None) -> str:
    url = "https://host" + ("" if namespace == "/" else namespace)
    return f'io("{url}")' if path is None else f'io("{url}", {{path: "{path}"}})'


def _distance(left: str, right: str, limit: int) -> int:
    """Insertions, deletions, replacements and swaps of neighbours from one text to the other.

    Args:
        left: a text.
        right: another one.
        limit: the distance beyond which it does not matter; only cells of the table that can be within it are filled.

    Returns:
        The distance, or ``limit + 1`` when it is greater than the limit.
    """
    beyond = limit + 1
    older: list[int] = []
    before: list[int] = []
    row = list(range(len(right) + 1))
    for i, x in enumerate(left, 1):
        older, before, row = before, row, [beyond] * (len(right) + 1)
        row[0] = i
        for j in range(max(1, i - limit), min(len(right), i + limit) + 1):
            y = right[j - 1]
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y))
            if i > 1 and j > 1 and x == right[j - 2] and left[i - 2] == y:
                cost = min(cost, older[j - 2] + 1)
            row[j] = cost
        if min(row) > limit:
            return beyond
    return min(row[-1], beyond)


def _differing(left: str, right: str) -> tuple[str, str]:
    """Two texts without what they share at the beginning and at the end; that never changes their distance."""
    shorter = min(len(left), len(right))
    start = 0
    while start < shorter and left[start] == right[start]:
        start += 1
    end = 0
    while end < shorter - start and left[-1 - end] == right[-1 - end]:
        end += 1
    return left[start : len(left) - end], right[start : len(right) - end]


def _nothing_registered(q: Question) -> Answer | None:
    if q.served.names() or q.served.catch_all or q.served.wildcard:
        return None
    return (
        "No namespace has a handler in this process: import the module that registers the handlers before the server "
        "starts, and check that it registers them on the server object that the guard protects.",
        None,
    )


def _nothing_declared(q: Question) -> Answer | None:
    if q.declared != ():
        return None
    return "The guard was given an empty list: leave namespaces= out to take what is registered, or fill it.", None


def _query_string(q: Question) -> Answer | None:
    name, mark, _ = q.asked.partition("?")
    if not mark:
        return None
    return (
        "The name has a query string, which is no part of a namespace: send parameters with io(url, {query: {…}}) "
        "and a token with io(url, {auth: {token}}).",
        name if q.joinable(name) else None,
    )


def _too_long(q: Question) -> Answer | None:
    if len(q.asked) <= LONGEST_NAME:
        return None
    return f"The name has {len(q.asked)} characters, but at most {LONGEST_NAME} are matched: shorten it.", None


def _stray_characters(q: Question) -> Answer | None:
    name = "".join(c for c in q.asked if not c.isspace() and neutralise(c, 1) == c)
    if name == q.asked:
        return None
    return (
        "The name has spaces, control characters or invisible characters in it: remove them where the client builds "
        "the name.",
        name if q.joinable(name) else None,
    )


def _hidden(q: Question) -> Answer | None:
    if not q.hidden:
        return None
    return (
        f"'{q.shown}' exists, but its policy '{q.covered_by}' has hidden=True and this client may not enter, hence the "
        "answer: check the client's token against the policy's token, scopes, claims and authorize.",
        None,
    )


def _registered_without_slash(q: Question) -> Answer | None:
    bare = q.asked[1:]
    if not q.asked.startswith("/") or not bare or bare.startswith("/") or not q.served.serves(bare):
        return None
    return (
        f'The handlers are registered with namespace="{q.shown[1:]}", which no client can reach: write '
        f'namespace="{q.shown}", with a leading slash.',
        None,
    )


def _not_declared(q: Question) -> Answer | None:
    if q.declared is None or q.covered_by is not None or not q.served.serves(q.asked):
        return None
    hint = f"python-socketio serves '{q.shown}', but the guard does not declare it: add \"{q.shown}\" to namespaces="
    if q.asked == "/" and q.listed:
        return f"{hint}, or, when the client forgot its namespace, write {_io(q.listed[0])}.", None
    return f"{hint}.", None


def _no_handler(q: Question) -> Answer | None:
    if q.covered_by is None:
        return None
    if q.covered_by == q.asked:
        return (
            f"'{q.shown}' is declared to the guard, but python-socketio has no handler for it in this process: import "
            f'the module with @sio.on("connect", namespace="{q.shown}") before the server starts.',
            None,
        )
    return (
        f"'{q.covered_by}' is declared to the guard, but python-socketio has no handler for '{q.shown}' in this "
        'process: register @sio.on("connect", namespace="*") before the server starts.',
        None,
    )


def _default_namespace(q: Question) -> Answer | None:
    if q.asked not in ("", "/"):
        return None
    names = q.listed
    return (
        "The client asked for the default namespace '/', where nothing is registered; it forgot its namespace: write "
        f'{_io(q.example if names else "/messages")}, or in Python connect(url, namespaces=["'
        f'{q.example if names else "/messages"}"]).',
        names[0] if len(names) == 1 else None,
    )


def _comma(q: Question) -> Answer | None:
    if "," not in q.asked:
        return None
    names = (q.asked.partition(",")[0], q.asked.replace(",", ""))
    return (
        "The name has a comma in it, and in a Socket.IO packet the comma ends the name: remove it; several namespaces "
        "need one io(url) each.",
        next((name for name in names if q.joinable(name)), None),
    )


def _missing_slash(q: Question) -> Answer | None:
    if q.asked.startswith("/"):
        return None
    scheme = _SCHEME.match(q.asked)
    name = (q.asked[scheme.end() :] or "/") if scheme else f"/{q.asked}"
    found = q.joinable(name)
    hint = f"A namespace begins with a slash and holds no host: write {_io(name if found else q.example)}."
    return hint, name if found else None


def _doubled_slash(q: Question) -> Answer | None:
    name = re.sub("/{2,}", "/", q.asked)
    if name == q.asked:
        return None
    found = q.joinable(name)
    hint = (
        "The name has two slashes in a row, which happens when a base URL that ends with a slash is put before a name: "
        f"write {_io(name if found else q.example)}."
    )
    return hint, name if found else None


def _trailing_slash(q: Question) -> Answer | None:
    for name in (q.asked.rstrip("/"), f"{q.asked}/"):
        if q.joinable(name):
            return f"The slash at the end of a namespace counts: write {_io(name)}.", name
    return None


def _other_case(q: Question) -> Answer | None:
    folded = q.asked.casefold()
    for name in q.exact:
        if name.casefold() == folded:
            return f"Upper and lower case count in a namespace: write {_io(name)}.", name
    return None


def _percent_encoded(q: Question) -> Answer | None:
    name = unquote(q.asked)
    if name == q.asked or not q.joinable(name):
        return None
    return f"A namespace is not percent-encoded: write {_io(name)}.", name


def _url_path(q: Question) -> Answer | None:
    asked = q.asked.rstrip("/").casefold() + "/"
    path = next(
        (path for path in q.paths if asked != "/" and f"{path.rstrip('/')}/".casefold().startswith(asked)), None
    )
    if path is None and "socket.io" not in asked.split("/"):
        return None
    # /socket.io/messages: the namespace is there, after the path.
    inner = max((name for name in q.exact if name != "/" and q.asked.endswith(name)), key=len, default=None)
    return (
        f"'{q.shown}' is the URL path of the endpoint, but what follows the host in io(url) is the namespace: write "
        f"{_io(inner or q.example, path or q.path)}.",
        inner or q.default,
    )


def _misspelt(q: Question, name: str) -> Answer:
    return f'The name looks misspelt: write {_io(name)}, or register handlers with namespace="{q.shown}".', name


def _typo(q: Question) -> Answer | None:
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
        ours, theirs = _differing(folded, name.casefold())
        if len(ours) > budget:
            continue
        budget -= len(ours)
        distance = _distance(ours, theirs, limit)
        if distance <= limit:
            best, limit = name, distance - 1
    return None if best is None else _misspelt(q, best)


def _alike(q: Question) -> Answer | None:
    if not 4 <= len(q.asked) <= _COMPARED:
        return None
    letters = set(q.asked)
    names = [name for name in q.exact if len(name) <= _COMPARED]
    # difflib is slow: only the names that share the most letters are shown to it.
    names = heapq.nlargest(_ALIKE, names, key=lambda name: len(letters.intersection(name)))
    found = difflib.get_close_matches(q.asked, names, n=1, cutoff=0.75)
    return _misspelt(q, found[0]) if found else None


def _url_prefix(q: Question) -> Answer | None:
    inner = max((name for name in q.exact if name != "/" and q.asked.endswith(name)), key=len, default=None)
    if inner is None and q.asked.split("/")[1].casefold() not in _URL_WORDS:
        return None
    prefix = _presentable((q.asked.removesuffix(inner) if inner else q.asked).rstrip("/"))
    return (
        f"'{prefix}' looks like a URL path, but what follows the host in io(url) is the namespace: write "
        f"{_io(inner or q.example, q.path)}; where a proxy serves the endpoint below '{prefix}', the path is "
        f'"{prefix}{_DEFAULT_PATH}".',
        inner or q.default,
    )


def _sub_path(q: Question) -> Answer | None:
    above = max((name for name in q.exact if name != "/" and q.asked.startswith(f"{name}/")), key=len, default=None)
    if above is None:
        return None
    return (
        f"Namespaces have no hierarchy, '{above}' does not include '{q.shown}': join '{above}' and use a room, or "
        f'declare "{above}/{{name}}" to the guard and register handlers for namespace="*".',
        above,
    )


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
    return any(_distance(*_differing(text[: len(first) + more], first), 1) <= 1 for more in (0, 1, -1))


def _pattern_nearly(q: Question) -> Answer | None:
    folded = q.asked.casefold()
    for alike in (_loosely, _begins_alike):
        for name, literals in [*(q.patterns or {}).items()][:_CANDIDATES]:
            if alike(literals, folded):
                return (
                    f"'{name}' nearly matches: each placeholder in braces stands for one or more characters without a "
                    "slash, and the rest must be the same, upper and lower case included.",
                    name,
                )
    return None


def _only_default(q: Question) -> Answer | None:
    if q.listed != ["/"]:
        return None
    return (
        f"Only the default namespace '/' can be joined, and what follows the host in io(url) is the namespace: write "
        f'{_io("/", q.path)}, or register handlers with namespace="{q.shown}".',
        "/",
    )


def _not_registered(q: Question) -> Answer:
    declare = "" if q.declared is None else " and add it to namespaces="
    return (
        f"'{q.shown}' is not registered in this process: register handlers with namespace=\"{q.shown}\"{declare}, or "
        "correct the name in the client.",
        None,
    )


RULES: tuple[tuple[str, Rule], ...] = (
    ("nothing_registered", _nothing_registered),
    ("nothing_declared", _nothing_declared),
    ("hidden", _hidden),
    ("not_declared", _not_declared),
    ("no_handler", _no_handler),
    ("query_string", _query_string),
    ("too_long", _too_long),
    ("stray_characters", _stray_characters),
    ("registered_without_slash", _registered_without_slash),
    ("default_namespace", _default_namespace),
    ("comma", _comma),
    ("missing_slash", _missing_slash),
    ("doubled_slash", _doubled_slash),
    ("trailing_slash", _trailing_slash),
    ("other_case", _other_case),
    ("percent_encoded", _percent_encoded),
    ("url_path", _url_path),
    ("typo", _typo),
    ("url_path", _url_prefix),
    ("sub_path", _sub_path),
    ("pattern_nearly", _pattern_nearly),
    ("typo", _alike),
    ("only_default", _only_default),
    ("not_registered", _not_registered),
)
"""Causes and their rules, the most specific first. The last one always applies."""


def diagnose(question: Question) -> Unknown:
    """Ask the rules in their order and make the first answer an `Unknown`.

    Args:
        question: what was asked for, and what there is.
    """
    cause, (hint, suggestion) = next((cause, answer) for cause, rule in RULES if (answer := rule(question)) is not None)
    return Unknown(
        requested=question.shown,
        registered=tuple(neutralise(name, LONGEST_NAME) for name in question.listed[:_LISTED]),
        suggestion=None if suggestion is None else _harmless(suggestion, LONGEST_NAME),
        cause=cause,
        # A name made of a pattern and a client's text may stand in it.
        hint=_harmless(hint, 1024),
    )
