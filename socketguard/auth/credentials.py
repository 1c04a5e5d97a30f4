"""`Credentials`: everything that ``auth=`` names as one, asked in the order of the guarantees.

Those that verify a signature here are asked at once. Those that look something up are asked after the budget of the
client's address, and explicit credentials before cookies.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from socketguard.authenticator import ConnectRequest, shows_page
from socketguard.check import function, listed
from socketguard.connection import Connection, Identity, KeysChange
from socketguard.deadline import Overdue, blocks, call, cause_of, is_ours, quick, run_until
from socketguard.errors import RETRY_AFTER, ConfigurationError, CredentialError, Refusal, RejectCode, TokenError
from socketguard.findings import Finding
from socketguard.text import is_safe, neutralise
from socketguard.tokens.auth import Verifier
from socketguard.tokens.finder import stray
from socketguard.tokens.http import Backend
from socketguard.tokens.issuers import Issuers

__all__ = ["Credentials"]

_KINDS = ("payload", "header", "query", "cookie")
_WRITE = (
    "write auth=JWTAuth(key, algorithms=[…]), an Authenticator, a function of the request, a list of these, or "
    "auth=None for no credential at all"
)
_PLACES = '"payload:NAME", "header:NAME", "query:NAME" and "cookie:NAME"'
_COOKIE_HINT = (
    "a cookie came, but nothing shows that a page of allowed_origins sent it: list the origin of the page; a client "
    "that is no browser sends an Origin header of that list"
)
_PATIENCE = 10.0
"""Seconds that authenticators may take for an HTTP route."""


@dataclass(frozen=True, eq=False)
class Kind:
    """One of several authenticators, and how it is asked.

    Attributes:
        given: what the application wrote.
        name: what the log calls its credentials.
        identify: what is called.
        places: where it looks, by `_KINDS`; empty where it has not said so.
        local: whether it is asked before the budget of an address.
        quick: whether it answers without a thread or a task.
    """

    given: Any
    name: str
    identify: Callable[[ConnectRequest], Any]
    places: tuple[tuple[str, str], ...]
    local: bool
    quick: bool

    @property
    def explicit(self) -> bool:
        """Whether it looks elsewhere than in cookies, as far as is known."""
        return not self.places or any(kind != "cookie" for kind, _ in self.places)

    @property
    def in_cookies(self) -> bool:
        """Whether it looks in cookies, as far as is known."""
        return not self.places or any(kind == "cookie" for kind, _ in self.places)

    @property
    def shown(self) -> list[str]:
        """The places, as they are written."""
        if isinstance(self.given, Verifier):
            return list(self.given.places)
        return [":".join(place) for place in self.places]

    def sees(self, request: ConnectRequest) -> bool:
        """Whether there is anything where it looks; to be asked for nothing would cost its address a budget."""
        return not self.places or any(self.values(request))

    def values(self, request: ConnectRequest) -> list[str]:
        """What there is where it looks."""
        found: list[Any] = []
        for kind, name in self.places:
            if kind == "payload":
                found.append(None if request.auth is None else request.auth.get(name))
            elif kind == "header":
                found.append(request.header(name.encode()))
            elif kind == "query":
                found.append(request.query_params.get(name))
            else:
                # Large ones come in chunks: NAME_0, NAME.0 and so on.
                found += [value for each, value in request.cookies.items() if each.startswith(name)]
        return [
            value if isinstance(value, str) else repr(value) for value in found if value is not None and value != ""
        ]


class Credentials(Backend):
    """Whoever is asked whose a credential is, in their order.

    Attributes:
        jwt: all verifiers of tokens as one; None where tokens are not taken.
        kinds: all who are asked.
        others: those of them who verify no tokens.
        origins: the origins whose pages may bring cookies.
    """

    def __init__(self, auth: Any, origins: Collection[str] = ()) -> None:
        given = _given(auth)
        self.origins = origins
        tokens = [one for one in given if isinstance(one, Verifier)]
        several = Issuers(*(each for one in tokens for each in one.auths)) if len(tokens) > 1 else None
        self.jwt: Verifier | None = several or next(iter(tokens), None)
        # Verifiers of tokens are one, in the place of the first.
        asked = [self.jwt if one in tokens else one for one in given if one not in tokens[1:]]
        self.kinds = _named([_kind(one) for one in asked])
        self.others = [kind for kind in self.kinds if kind.given is not self.jwt]
        _check_told_apart(self.kinds)
        # Cookies come last: with them those are asked, some once more, that may look there.
        self._steps = [(kind, False) for kind in self.kinds if kind.explicit]
        self._steps += [(kind, True) for kind in self.kinds if kind.in_cookies]
        self._alone = len(self.kinds) == len(self.others) == 1
        if self._alone:
            self._steps = [(self.kinds[0], True)]
        self.uses_cookie = any(kind.places and kind.in_cookies for kind in self.kinds)
        self._reads_cookies = any(kind.in_cookies for kind in self.kinds)
        self._clock = next((kind.given.clock for kind in self.others if hasattr(kind.given, "clock")), time.time)
        self._failing: dict[str, BaseException] = {}
        self._changes: list[tuple[str, BaseException | None]] = []

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Credentials):
            return NotImplemented
        mine, theirs = ([kind.given for kind in each.kinds] for each in (self, other))
        return mine == theirs and self.origins == other.origins

    def __hash__(self) -> int:
        return hash(tuple(kind.name for kind in self.kinds))

    def __repr__(self) -> str:
        return f"<Credentials {', '.join(kind.name for kind in self.kinds)}>"

    def only(self, jwt: Verifier | None, *, others: bool) -> Credentials:
        """The same with another verifier of tokens, and the other authenticators or none: for telling people."""
        return Credentials([jwt or _nothing, *(kind.given for kind in self.others if others)], self.origins)

    # A CONNECT

    def request(self, connection: Connection, data: Mapping[str, Any] | None) -> ConnectRequest:
        """What the authenticators may look at."""
        session = connection.session
        request = ConnectRequest(
            session.headers, session.query_string, session.scope, data, connection.namespace, session.client_address
        )
        if self._reads_cookies:
            request.page_shown = shows_page(request, self.origins, session.asked_from)
        return request

    def ask_now(
        self, request: ConnectRequest, start: int = 0, *, all_quick: bool = False, http: bool = False
    ) -> Identity | int | None:
        """Ask without waiting for anything, from a step on.

        Returns:
            Who it is; None when there is no credential; else the step at which somebody has to be asked who takes
            longer. That is, unless ``all_quick``, everybody who does not verify a signature here.

        Raises:
            CredentialError: there is a credential, and it is bad; or nobody can tell now (``keys_unavailable``).
        """
        for number in range(start, len(self._steps)):
            kind, cookies = self._steps[number]
            if kind.given is self.jwt:
                token = self._token(request, cookies=cookies, http=http)
                if token is not None:
                    found = self.jwt.verify_now(token)
                    return number if found is None else found
                continue
            if cookies:
                request.show_cookies()
                if not self._alone and not request.cookies:
                    continue
            if not kind.sees(request):
                continue
            if not kind.quick or not (kind.local or all_quick):
                return number
            try:
                answer = kind.identify(request)
            except CredentialError:
                self._answered(kind)
                request.tried = self.tried(request, number)
                raise
            except Exception as exc:
                raise self._failed(kind, exc) from None
            if inspect.isawaitable(answer):
                request.waiting = answer
                return number
            if (found := self._checked(kind, answer)) is not None:
                return found
        return None

    async def ask_later(
        self, request: ConnectRequest, start: int, deadline: float, *, http: bool = False
    ) -> Identity | None:
        """Ask from a step on, and wait for whatever has to be waited for.

        Raises:
            CredentialError: as `ask_now`.
            Overdue: keys did not come in time.
        """
        step: Identity | int | None = start
        while isinstance(step, int):
            kind, cookies = self._steps[step]
            if kind.given is self.jwt:
                token = self._token(request, cookies=cookies, http=http)
                assert token is not None  # noqa: S101 - narrows the type: it was there
                return cast("Identity", await run_until(self.jwt.averify(token), deadline))
            found = await self._ask(kind, request, deadline)
            if found is not None:
                return found
            step = self.ask_now(request, step + 1, all_quick=True, http=http)
        return step

    def _token(self, request: ConnectRequest, *, cookies: bool, http: bool) -> str | None:
        assert self.jwt is not None  # noqa: S101 - narrows the type
        finder = self.jwt.http_finder if http else self.jwt.finder
        found = finder.find_cookie(request) if cookies else finder.find(request)
        if found is None:
            return None
        request.tried = hash(found.token)
        return found.token

    async def _ask(self, kind: Kind, request: ConnectRequest, deadline: float) -> Identity | None:
        found: Any
        answer, request.waiting = request.waiting, None
        try:
            if answer is None:
                answer = call(kind.identify, request)
            found = await run_until(answer, deadline)
        except CredentialError:
            self._answered(kind)
            raise
        except Overdue:
            raise self._failed(kind, TimeoutError("it gave no answer in time")) from None
        except BaseException as exc:
            if not is_ours(exc):
                raise
            raise self._failed(kind, cause_of(exc)) from None
        return self._checked(kind, found)

    def _checked(self, kind: Kind, found: Any) -> Identity | None:
        """What an authenticator has answered, if it can be an answer."""
        self._answered(kind)
        if found is None:
            return None
        problem = _problem(found)
        if problem:
            raise TypeError(f"{kind.name}: identify() {problem}; return an Identity with a subject, or None")
        identity: Identity = found
        if identity.credential == kind.name and type(identity.subject) is str and type(identity.scopes) is frozenset:
            return identity
        return replace(identity, credential=kind.name, subject=str(identity.subject), scopes=frozenset(identity.scopes))

    def _answered(self, kind: Kind) -> None:
        if kind.name in self._failing:
            del self._failing[kind.name]
            self._changes.append((kind.name, None))

    def _failed(self, kind: Kind, error: BaseException) -> TokenError:
        """Nobody can tell now whose a credential is."""
        if kind.name not in self._failing:
            self._changes.append((kind.name, error))
        self._failing[kind.name] = error
        return TokenError(
            RejectCode.KEYS_UNAVAILABLE,
            "authenticator_failed",
            credential=kind.name,
            error=type(error).__name__,
            retry_after=RETRY_AFTER,
        )

    async def refresh(self, connection: Connection, payload: Mapping[str, Any], deadline: float) -> Identity | Refusal:
        """Whose a fresh credential is: the ``token`` of the payload, or what an authenticator finds in it.

        Raises:
            CredentialError: as `ask_now`.
            Overdue: keys did not come in time.
        """
        if self.jwt is not None and connection.identity.credential == self.jwt.name:
            token = payload.get("token")
            if token is None or token == "":
                return Refusal(RejectCode.TOKEN_MISSING, "no_token")
            if not isinstance(token, str):
                return Refusal(RejectCode.TOKEN_MALFORMED, "not_a_string", {"received": type(token).__name__})
            identity = self.jwt.verify_now(token)
            if identity is None:
                identity = await run_until(self.jwt.averify(token), deadline)
            return cast("Identity", identity)
        request = self.request(connection, payload)
        request.page_shown = False  # a cookie of the handshake is not fresh
        found = self.ask_now(request, all_quick=True)
        if isinstance(found, int):
            found = await self.ask_later(request, found, deadline)
        return self.missing(request) if found is None else found

    def tried(self, request: ConnectRequest, step: int) -> int | None:
        """What stands for the credential that is looked up at a step; None where there seems to be none."""
        if request.tried is not None:
            return request.tried
        kind = self._steps[step][0]
        found = kind.values(request) if kind.places else [repr(request.auth or None), *request.usual]
        return hash(tuple(found)) if any(found) else None

    def missing(self, request: ConnectRequest) -> Refusal:
        """The refusal of a client that brings no credential at all."""
        fields: dict[str, Any] = {}
        if request.auth:
            # Which keys came instead: names only, never values.
            fields["received"] = [neutralise(str(key), 32) for key in list(request.auth)[:8]]
        if self._missed_cookie(request):
            return Refusal(RejectCode.TOKEN_MISSING, "cookie_without_origin", {**fields, "hint": _COOKIE_HINT})
        if self.jwt is not None and (hint := stray(request)) is not None:
            fields["hint"] = hint
        elif self.others:
            fields["expected"] = [place for kind in self.kinds for place in kind.shown]
        return Refusal(RejectCode.TOKEN_MISSING, "no_token", fields)

    def _missed_cookie(self, request: ConnectRequest) -> bool:
        """Whether there are cookies that would be looked at, if they counted."""
        return not request.page_shown and self._reads_cookies and request.header(b"cookie") is not None

    # HTTP routes

    async def identify_http(self, request: ConnectRequest) -> Identity | None:
        found = self.ask_now(request, all_quick=True, http=True)
        if isinstance(found, int):
            deadline = asyncio.get_running_loop().time() + _PATIENCE
            try:
                found = await self.ask_later(request, found, deadline, http=True)
            except Overdue:
                raise TokenError(RejectCode.KEYS_UNAVAILABLE, "keys", retry_after=RETRY_AFTER) from None
        if found is None and self._missed_cookie(request):
            raise TokenError(RejectCode.TOKEN_MISSING, "cookie_cross_origin")
        return found

    # Its authority

    @property
    def moves_by_hand(self) -> bool:
        """Whether a clock is moved by hand, as `socketguard.testing.FakeClock` is."""
        return (self.jwt is not None and self.jwt.moves_by_hand) or getattr(self._clock, "moves_by_hand", False)

    def now(self) -> float:
        """The time by which credentials are judged, in seconds since the epoch."""
        return self._clock() if self.jwt is None else self.jwt.now()

    def ends_at(self, identity: Identity) -> float | None:
        """When a connection must end, in seconds since the epoch; None when its credential doesn't end it."""
        if self.jwt is not None and identity.credential == self.jwt.name:
            return self.jwt.ends_at(identity)
        return identity.expires_at

    def check_time(self, identity: Identity) -> None:
        """Refuse a credential that has expired since it was checked; an anonymous identity never expires."""
        if identity.expires_at is None:
            return
        if self.jwt is not None and identity.credential == self.jwt.name:
            self.jwt.check_time(identity)
        elif not self.now() < identity.expires_at:
            expired = round(self.now() - identity.expires_at)
            raise TokenError(RejectCode.TOKEN_EXPIRED, "expired", expired_s=expired)

    @property
    def issuers(self) -> frozenset[str]:
        """The issuers that are accepted; empty when ``iss`` is not checked."""
        return frozenset() if self.jwt is None else self.jwt.issuers

    @property
    def leeway(self) -> float:
        """How far clocks may differ at most, in seconds."""
        return 0.0 if self.jwt is None else self.jwt.leeway

    def lifetime(self, issuer: str | None) -> tuple[float | None, list[str]]:
        """The longest lifetime of an issuer's credentials (None: of anybody's), in seconds, and of which it is not
        known."""
        lifetimes: list[tuple[str, float | None]] = []
        if self.jwt is not None:
            lifetimes.append((self.jwt.name, self.jwt.max_lifetime_of(issuer)))
        if issuer is None:
            lifetimes += [(kind.name, getattr(kind.given, "max_lifetime", None)) for kind in self.others]
        unknown = [name for name, seconds in lifetimes if seconds is None]
        return max((seconds for _, seconds in lifetimes if seconds is not None), default=None), unknown

    def scopes_read(self, identity: Identity) -> dict[str, Any]:
        """For the log, what a credential grants, and from where that was read."""
        if self.jwt is not None and identity.credential == self.jwt.name:
            return self.jwt.scopes_read(identity)
        return {"granted": sorted(neutralise(scope, 64) for scope in identity.scopes)[:16]}

    # Its state

    def outage(self) -> int | None:
        """Seconds after which to try again, when nothing but tokens is taken and no keys are there; else None."""
        return None if self.jwt is None or self.others else self.jwt.outage()

    @property
    def failing(self) -> bool:
        """Whether nobody can tell now whose a credential is, for want of an authenticator of the application."""
        if not self.others or (self.jwt is not None and self.jwt.outage() is None):
            return False
        return all(kind.name in self._failing for kind in self.others)

    def unavailable(self) -> list[tuple[str, BaseException | None]]:
        """What has changed since the last call: an authenticator by its name, with the error that it raises now; with
        None when it answers again."""
        changes, self._changes = self._changes, []
        return changes

    def keys_status(self) -> list[dict[str, Any]]:
        """The state of fetched keys; empty when there are none to fetch."""
        return [] if self.jwt is None else self.jwt.keys_status()

    def changes(self, since: int) -> tuple[int, Sequence[KeysChange]]:
        """What happened to fetched keys after a position, and the position to ask from next."""
        return (since, ()) if self.jwt is None else self.jwt.changes(since)

    @property
    def fetching(self) -> bool:
        """Whether keys are being fetched now."""
        return self.jwt is not None and self.jwt.fetching

    def start(self) -> None:
        """Begin to fetch keys, when there are any to fetch."""
        if self.jwt is not None:
            self.jwt.start()

    def hold(self) -> None:
        """Fetch no keys from now on, for whoever only looks."""
        if self.jwt is not None:
            self.jwt.hold()

    async def close(self) -> None:
        """Stop fetching keys."""
        if self.jwt is not None:
            await self.jwt.close()

    def describe(self) -> Any:
        """The effective configuration for a log line, without secrets."""
        described = [
            kind.given.describe()
            if hasattr(kind.given, "describe")
            else {"credential": kind.name, "places": [":".join(place) for place in kind.places]}
            for kind in self.kinds
        ]
        return described[0] if len(described) == 1 else {"credentials": described}

    def findings(self) -> list[Finding]:
        """What a person should look at in any of them; the same thing once."""
        found = [finding for kind in self.kinds for finding in getattr(kind.given, "findings", list)()]
        return list(dict.fromkeys(found))


@quick
def _nothing(request: ConnectRequest) -> None:
    """An authenticator of nobody."""


def _given(auth: Any) -> list[Any]:
    """What ``auth=`` lists."""
    what = f"a {type(auth).__name__}"
    if callable(auth) or hasattr(auth, "identify"):
        return [auth]
    # A text may be a secret, which stands in no error.
    if isinstance(auth, Iterable) and not isinstance(auth, str):
        given = list(listed(auth, "auth", example="[JWTAuth(…), APIKeyAuth(…)]"))
        if given and all(callable(one) or hasattr(one, "identify") for one in given):
            return given
        what = f"{what} of something else" if given else f"an empty {type(auth).__name__}"
    raise ConfigurationError(f"auth is {what}; {_WRITE}", option="auth")


def _kind(one: Any) -> Kind:
    identify = getattr(one, "identify", one)
    if isinstance(one, type):
        raise ConfigurationError(f"auth is the class {one.__name__}; write {one.__name__}(…)", option="auth")
    function(identify, "auth", "request", write="write a function of one argument, the ConnectRequest")
    name = getattr(one, "name", "") or getattr(one, "__name__", type(one).__name__)
    if not isinstance(name, str) or not is_safe(name):
        raise ConfigurationError(f"auth: the name of {type(one).__name__} is no plain text", option="auth")
    if isinstance(one, Verifier):
        places = tuple((kind, name) for kind, _, name in (place.partition(":") for place in one.places))
    else:
        places = tuple(map(_place, listed(getattr(one, "places", ()), "places", example='("header:x-api-key",)')))
    at_once = not blocks(identify) and not inspect.iscoroutinefunction(identify)
    return Kind(one, name[:64], identify, places, bool(getattr(one, "local", False)), at_once)


def _place(text: Any) -> tuple[str, str]:
    kind, _, name = text.partition(":") if isinstance(text, str) else ("", "", "")
    if kind not in _KINDS or not name:
        raise ConfigurationError(f"places has the entry {text!r}; it may hold {_PLACES}", option="places")
    return kind, name.lower() if kind == "header" else name


def _named(kinds: list[Kind]) -> list[Kind]:
    """The same, each with a name of its own; that of tokens is taken, wherever they stand in the list."""
    names = {kind.name: 1 for kind in kinds if isinstance(kind.given, Verifier)}
    found = []
    for kind in kinds:
        if isinstance(kind.given, Verifier):
            found.append(kind)
            continue
        names[kind.name] = count = names.get(kind.name, 0) + 1
        found.append(kind if count == 1 else replace(kind, name=f"{kind.name}-{count}"))
    return found


def _check_told_apart(kinds: Sequence[Kind]) -> None:
    """Two that look in the same place would each take the other's credential for a bad one of its own."""
    seen: dict[str, str] = {}
    for kind in kinds:
        for place in kind.shown:
            if place in seen and not place.endswith("()"):
                raise ConfigurationError(
                    f"auth: {seen[place]} and {kind.name} both look in {place}, so that nothing tells their "
                    "credentials apart; give one of them another place",
                    option="auth",
                )
            seen[place] = kind.name


def _problem(found: Any) -> str:
    """What is wrong with the answer of an authenticator; nothing, mostly."""
    if not isinstance(found, Identity):
        return f"returned a {type(found).__name__}"
    subject: Any = found.subject
    if subject is None or subject == "":
        return "returned an identity without a subject"
    if type(subject) not in (str, int):
        return f"returned a subject that is a {type(subject).__name__}"
    claims: Any = found.claims
    if not isinstance(claims, Mapping):
        return f"returned claims that are a {type(claims).__name__}, no mapping"
    scopes: Any = found.scopes
    if not isinstance(scopes, frozenset | set) or not all(isinstance(scope, str) for scope in scopes):
        return "returned scopes that are no set of texts"
    for option in ("issuer", "token_id"):
        if not isinstance(getattr(found, option), str | None):
            return f"returned {option} that is no text"
    for option in ("issued_at", "expires_at"):
        value = getattr(found, option)
        if value is not None and (type(value) not in (int, float) or not math.isfinite(value)):
            return f"returned {option} that is no number of seconds since the epoch"
    return ""
