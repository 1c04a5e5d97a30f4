from __future__ import annotations

import asyncio
import gc
import inspect
import json
import math
import re
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from socketguard.connection import ANONYMOUS, Identity
from socketguard.errors import RETRY_AFTER, ConfigurationError, Refusal, RejectCode, SocketGuardError
from socketguard.limits.revocation import (
    MemoryStore,
    Revocation,
    Revocations,
    Store,
    StoreFull,
    StoreUnavailable,
    revocation_for,
)

TOKEN_ID = "t"
NOW = 1_900_000_000.5
ISSUER = "https://login.example.com/"
OTHER = "https://other.example.com/"
TEMPLATE = "https://login.microsoftonline.com/{tid}/v2.0"


class Clock:
    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def of_token(token_id: str = TOKEN_ID, issuer: str | None = ISSUER, expires_at: float = 100.0) -> Revocation:
    return Revocation(issuer, token_id, None, None, expires_at)


def of_subject(
    subject: str = "ann", issued_before: float = 50.0, issuer: str | None = ISSUER, expires_at: float = 100.0
) -> Revocation:
    return Revocation(issuer, None, subject, issued_before, expires_at)


def identity(
    subject: str | None = "ann",
    token_id: str | None = TOKEN_ID,
    issuer: str | None = ISSUER,
    issued_at: float | None = 10.0,
) -> Identity:
    return Identity(subject, issuer=issuer, token_id=token_id, issued_at=issued_at)


# --- Revocation


@pytest.mark.parametrize(
    ("revocation", "who", "covered"),
    [
        *((of_token(), who, True) for who in (identity(), identity(subject="bob", issued_at=None))),
        *((of_token(), identity(token_id=name), False) for name in ("T", None)),
        *((of_token(), identity(issuer=issuer), False) for issuer in (OTHER, None)),
        *((of_token(issuer=None), identity(issuer=issuer), True) for issuer in (OTHER, None)),
        *((of_subject(), identity(issued_at=moment), True) for moment in (10.0, 49.9, None)),
        (of_subject(), identity(token_id=None), True),
        (of_subject(), identity(issued_at=50.0), False),
        (of_subject(issued_before=0.0), identity(issued_at=None), True),
        *((of_subject(), who, False) for who in (identity(subject="bob"), identity(issuer=OTHER))),
        (of_subject(issuer=None), identity(issuer=OTHER), True),
        *((revocation, ANONYMOUS, False) for revocation in (of_token(issuer=None), of_subject(issuer=None))),
        # A token id is not taken for a subject, nor the other way round.
        (of_subject("t"), identity(), False),
        (of_token("ann"), identity(), False),
    ],
)
def test_what_a_revocation_covers(revocation: Revocation, who: Identity, covered: bool) -> None:
    assert revocation.covers(who) is covered
    store = MemoryStore(clock=Clock())
    store.revoke(revocation)
    assert store.is_revoked(who) is covered


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        ((None, None, None, None, 1.0), "token_id"),
        ((None, "t", "ann", 1.0, 1.0), "token_id"),
        ((None, None, "ann", None, 1.0), "issued_before"),
        ((None, "t", None, 1.0, 1.0), "issued_before"),
        ((None, None, "ann", math.nan, 1.0), "issued_before"),
        ((None, "t", None, None, math.inf), "expires_at"),
        ((None, "t", None, None, math.nan), "expires_at"),
    ],
)
def test_a_revocation_that_means_nothing_is_refused(arguments: Any, option: str) -> None:
    with pytest.raises(ConfigurationError, match=option) as caught:
        Revocation(*arguments)
    assert caught.value.option == option


# --- MemoryStore


def test_a_broken_clock_refuses() -> None:
    clock = Clock(math.nan)
    store = MemoryStore(clock=clock)
    store.revoke(of_token())
    assert store.is_revoked(identity())


def test_full_of_live_revocations_it_raises_and_forgets_none() -> None:
    clock = Clock()
    store = MemoryStore(capacity=2, clock=clock)
    store.revoke(of_token("a", expires_at=100.0))
    store.revoke(of_token("b", expires_at=200.0))
    with pytest.raises(StoreFull, match=re.escape("write MemoryStore(capacity=4)")) as caught:
        store.revoke(of_token("secret-id"))
    assert isinstance(caught.value, SocketGuardError)
    assert "secret-id" not in str(caught.value)
    assert [store.is_revoked(identity(token_id=name)) for name in ("a", "b", "secret-id")] == [True, True, False]
    # What is kept already needs no room to be prolonged.
    store.revoke(of_token("a", expires_at=300.0))
    clock.now = 200.0
    store.revoke(of_token("c", expires_at=400.0))
    assert [store.is_revoked(identity(token_id=name)) for name in ("a", "b", "c")] == [True, False, True]
    assert len(store) == 2


def test_one_that_was_prolonged_often_takes_one_place() -> None:
    clock = Clock()
    store = MemoryStore(capacity=1, clock=clock)
    for expires_at in range(10, 100):
        store.revoke(of_token(expires_at=expires_at))
    clock.now = 98.0
    with pytest.raises(StoreFull):
        store.revoke(of_token("b", expires_at=200.0))
    clock.now = 99.0
    store.revoke(of_token("b", expires_at=200.0))
    assert not store.is_revoked(identity())


def test_a_second_revocation_never_shortens_the_first() -> None:
    clock = Clock()
    store = MemoryStore(clock=clock)
    store.revoke(of_subject(issued_before=50.0, expires_at=100.0))
    store.revoke(of_subject(issued_before=40.0, expires_at=90.0))
    clock.now = 95.0
    assert store.is_revoked(identity(issued_at=45.0))
    store.revoke(of_subject(issued_before=60.0, expires_at=120.0))
    clock.now = 119.0
    assert store.is_revoked(identity(issued_at=55.0))


def test_an_expired_one_that_is_still_there_does_not_reach_into_its_successor() -> None:
    clock = Clock()
    store = MemoryStore(clock=clock)
    # So many that a single call does not remove them all.
    for number in range(100):
        store.revoke(of_token(str(number), expires_at=1.0))
    store.revoke(of_subject(issued_before=1000.0, expires_at=2.0))
    clock.now = 10.0
    store.revoke(of_subject(issued_before=50.0, expires_at=100.0))
    assert len(store) > 1
    assert store.is_revoked(identity(token_id=None, issued_at=49.0))
    assert not store.is_revoked(identity(token_id=None, issued_at=51.0))
    clock.now = 99.0
    for _ in range(4):
        store.revoke(of_token(expires_at=98.0))
    assert len(store) == 1
    assert store.is_revoked(identity(token_id=None, issued_at=49.0))


def test_a_mass_that_expired_is_removed_a_little_at_a_time() -> None:
    clock = Clock()
    store = MemoryStore(capacity=2_000, clock=clock)
    for number in range(2_000):
        store.revoke(of_token(str(number), expires_at=1.0))
    clock.now = 2.0
    store.revoke(of_token("new"))
    assert 1_900 < len(store) < 2_000
    for _ in range(100):
        store.revoke(of_token("new"))
    assert len(store) == 1


def test_when_full_it_looks_through_all_that_may_have_expired() -> None:
    clock = Clock()
    store = MemoryStore(capacity=101, clock=clock)
    for number in range(100):
        store.revoke(of_token(str(number), expires_at=1.0))
        store.revoke(of_token(str(number), expires_at=100.0))
    store.revoke(of_token("last", expires_at=2.0))
    clock.now = 3.0
    store.revoke(of_token("new"))
    assert [store.is_revoked(identity(token_id=name)) for name in ("0", "99", "last", "new")] == [1, 1, 0, 1]


def test_it_describes_itself_without_names() -> None:
    store = MemoryStore(capacity=3, clock=Clock())
    store.revoke(of_subject())
    assert json.loads(json.dumps(store.describe())) == {"kind": "memory", "capacity": 3, "revocations": 1}
    assert repr(store) == "<MemoryStore 1 of 3>"


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        *(("capacity", value, "capacity=100000") for value in (0, -1, True, 1.5, "100", None)),
        ("clock", 12.0, "seconds since the epoch"),
    ],
)
def test_an_option_that_is_wrong(option: str, value: Any, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text) as caught:
        MemoryStore(**{option: value})
    assert caught.value.option == option


ISSUERS = st.sampled_from([None, ISSUER, OTHER])
NAMES = st.sampled_from(["a", "b", "c"])
TIMES = st.integers(0, 30).map(float)
REVOCATIONS = st.one_of(
    st.builds(Revocation, ISSUERS, NAMES, st.none(), st.none(), TIMES),
    st.builds(Revocation, ISSUERS, st.none(), NAMES, TIMES, TIMES),
)
IDENTITIES = st.builds(
    identity, subject=st.none() | NAMES, token_id=st.none() | NAMES, issuer=ISSUERS, issued_at=st.none() | TIMES
)
STEPS = st.one_of(
    st.tuples(st.just("revoke"), REVOCATIONS),
    st.tuples(st.just("ask"), IDENTITIES),
    st.tuples(st.just("later"), st.integers(1, 6)),
)


class Model:
    """What a store has to be: a list of revocations."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.revocations: list[Revocation] = []

    def live(self, now: float) -> list[Revocation]:
        return [revocation for revocation in self.revocations if revocation.expires_at > now]

    def revoke(self, new: Revocation, now: float) -> bool:
        """False: it is full."""
        if new.expires_at <= now:
            return True
        for old in self.live(now):
            if (old.issuer, old.token_id, old.subject) == (new.issuer, new.token_id, new.subject):
                self.revocations.remove(old)
                before = None if new.issued_before is None else max(old.issued_before or 0, new.issued_before)
                expires_at = max(old.expires_at, new.expires_at)
                self.revocations.append(Revocation(new.issuer, new.token_id, new.subject, before, expires_at))
                return True
        if len(self.live(now)) == self.capacity:
            return False
        self.revocations.append(new)
        return True

    def is_revoked(self, who: Identity, now: float) -> bool:
        return any(revocation.covers(who) for revocation in self.live(now))


@settings(max_examples=400)
@given(capacity=st.integers(1, 6), steps=st.lists(STEPS, max_size=40))
def test_it_does_what_a_list_would_do(capacity: int, steps: list[tuple[str, Any]]) -> None:
    clock = Clock()
    store, model = MemoryStore(capacity=capacity, clock=clock), Model(capacity)
    taken: list[Revocation] = []
    for kind, value in steps:
        if kind == "later":
            clock.now += value
        elif kind == "ask":
            revoked = store.is_revoked(value)
            assert revoked == model.is_revoked(value, clock.now)
            # Nothing that was taken is forgotten before its time.
            assert revoked >= any(old.covers(value) for old in taken if old.expires_at > clock.now)
        elif model.revoke(value, clock.now):
            store.revoke(value)
            taken.append(value)
        else:
            with pytest.raises(StoreFull):
                store.revoke(value)
        assert len(model.live(clock.now)) <= len(store) <= capacity


# --- Revocations


class Answers:
    """A store that does what it is told."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        self.answer = answer

    def is_revoked(self, identity: Identity) -> Any:
        return self.answer()

    def revoke(self, revocation: Revocation) -> Any:
        return self.answer()


def asking(store: Store, *, timeout: float = 60.0, fail_open: bool = False) -> Revocations:
    return Revocations(store, timeout=timeout, fail_open=fail_open)


def changes(revocations: Revocations) -> list[tuple[bool, str]]:
    found = [(available, repr(error)) for available, error in revocations.changes()]
    assert not found or found[-1][0] is revocations.available
    assert revocations.changes() == []
    return found


def raising(error: BaseException) -> Callable[[], Any]:
    def answer() -> Any:
        raise error

    return answer


def later(answer: Callable[[], Any]) -> Callable[[], Any]:
    """The same from an asynchronous store."""

    async def answer_later() -> Any:
        await asyncio.sleep(0)
        return answer()

    return answer_later


async def hang() -> bool:
    await asyncio.Event().wait()
    return False


async def asked(revocations: Revocations, who: Identity | None = None) -> Refusal | None:
    answer = revocations.check(who or identity())
    return await answer if isinstance(answer, Awaitable) else answer


UNAVAILABLE = Refusal(RejectCode.KEYS_UNAVAILABLE, "store_unavailable", {"retry_after": 5})
REVOKED = Refusal(RejectCode.TOKEN_REVOKED, "revoked")


def test_a_synchronous_store_is_asked_without_an_event_loop() -> None:
    store = MemoryStore(clock=Clock())
    revocations = asking(store)
    assert revocations.check(identity()) is None
    store.revoke(of_token())
    assert revocations.check(identity()) == REVOKED
    assert revocations.check(ANONYMOUS) is None
    assert revocations.available
    assert changes(revocations) == []


@pytest.mark.parametrize("wrap", [lambda answer: answer, later], ids=["sync", "async"])
class TestBothKinds:
    async def test_its_answers(self, wrap: Any) -> None:
        assert await asked(asking(Answers(wrap(lambda: False)))) is None
        assert await asked(asking(Answers(wrap(lambda: True)))) == REVOKED

    @pytest.mark.parametrize(
        ("answer", "error"),
        [
            (raising(ConnectionError("down")), "ConnectionError('down')"),
            (raising(asyncio.CancelledError()), "CancelledError()"),
            (raising(StopAsyncIteration()), "StopAsyncIteration()"),
            (lambda: None, "TypeError('is_revoked() must return True or False, not NoneType')"),
            (lambda: 0, "TypeError('is_revoked() must return True or False, not int')"),
            (lambda: 1, "TypeError('is_revoked() must return True or False, not int')"),
            (lambda: b"secret", "TypeError('is_revoked() must return True or False, not bytes')"),
        ],
    )
    async def test_without_an_answer_it_fails_closed(self, wrap: Any, answer: Any, error: str) -> None:
        closed = asking(Answers(wrap(answer)))
        assert [await asked(closed), await asked(closed)] == [UNAVAILABLE, UNAVAILABLE]
        assert changes(closed) == [(False, error)]
        opened = asking(Answers(wrap(answer)), fail_open=True)
        assert [await asked(opened), await asked(opened)] == [None, None]
        assert changes(opened) == [(False, error)]

    async def test_each_change_of_state_is_told_once(self, wrap: Any) -> None:
        store = Answers(wrap(lambda: False))
        revocations = asking(store)
        answers = []
        for answer in (lambda: False, raising(OSError("1")), raising(OSError("2")), lambda: True, lambda: False):
            store.answer = wrap(answer)
            answers.append(await asked(revocations))
        assert answers == [None, UNAVAILABLE, UNAVAILABLE, REVOKED, None]
        store.answer = wrap(raising(OSError("3")))
        assert await asked(revocations) == UNAVAILABLE
        store.answer = wrap(lambda: False)
        assert await asked(revocations) is None
        found = changes(revocations)
        assert found == [(False, "OSError('1')"), (True, "None"), (False, "OSError('3')"), (True, "None")]

    async def test_revoking_raises_what_the_store_raises(self, wrap: Any) -> None:
        full = StoreFull("full")
        revocations = asking(Answers(wrap(raising(full))))
        with pytest.raises(StoreFull) as caught:
            await revocations.revoke(of_token())
        assert caught.value is full
        assert revocations.available

    async def test_revoking_hands_it_over(self, wrap: Any) -> None:
        kept: list[Revocation] = []

        class Keeping(Answers):
            def revoke(self, revocation: Revocation) -> Any:
                return wrap(lambda: kept.append(revocation))()

        revocation = of_subject()
        await asking(Keeping(lambda: False)).revoke(revocation)
        assert kept == [revocation]


async def test_what_ends_the_process_does() -> None:
    revocations = asking(Answers(raising(KeyboardInterrupt())))
    with pytest.raises(KeyboardInterrupt):
        await asked(revocations)
    assert revocations.available


class Future:
    """An awaitable that is no coroutine, as some drivers return."""

    def __await__(self) -> Generator[Any, None, bool]:
        return asyncio.sleep(0, True).__await__()


async def test_any_awaitable_will_do() -> None:
    assert await asked(asking(Answers(Future))) == REVOKED


@pytest.mark.parametrize(("fail_open", "expected"), [(False, UNAVAILABLE), (True, None)])
async def test_a_store_that_hangs(fail_open: bool, expected: Refusal | None) -> None:
    revocations = asking(Answers(hang), timeout=0.01, fail_open=fail_open)
    assert await asked(revocations) == expected
    assert changes(revocations) == [(False, "TimeoutError('the store gave no answer within 0.01 s')")]
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_store_that_hangs_while_revoking() -> None:
    revocations = asking(Answers(hang), timeout=0.01)
    with pytest.raises(StoreUnavailable, match=r"within 0\.01 s.*revoke once more") as caught:
        await revocations.revoke(of_token("secret-id"))
    assert "secret-id" not in str(caught.value)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_store_that_is_cancelled_inside_while_revoking() -> None:
    with pytest.raises(StoreUnavailable, match="revoke once more"):
        await asking(Answers(later(raising(asyncio.CancelledError())))).revoke(of_token())


async def test_a_client_that_goes_away_is_no_failure_of_the_store() -> None:
    started = asyncio.Event()

    async def answer() -> bool:
        started.set()
        return await hang()

    revocations = asking(Answers(answer))
    task = asyncio.ensure_future(asked(revocations))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert revocations.available
    assert changes(revocations) == []
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_an_answer_from_before_the_failure_does_not_end_the_outage() -> None:
    waiting: list[asyncio.Future[bool]] = []

    def answer() -> asyncio.Future[bool]:
        waiting.append(asyncio.get_running_loop().create_future())
        return waiting[-1]

    revocations = asking(Answers(answer))
    slow, failing = [asyncio.ensure_future(asked(revocations)) for _ in range(2)]
    # Both have asked once each of them had its first turn.
    await asyncio.sleep(0)
    waiting[1].set_exception(OSError("down"))
    assert await failing == UNAVAILABLE
    waiting[0].set_result(True)
    assert await slow == REVOKED
    assert not revocations.available
    fresh = asyncio.ensure_future(asked(revocations))
    await asyncio.sleep(0)
    waiting[2].set_result(False)
    assert await fresh is None
    assert changes(revocations) == [(False, "OSError('down')"), (True, "None")]


async def test_nothing_is_left_unawaited() -> None:
    for answer in (hang, later(raising(OSError())), later(lambda: None)):
        await asked(asking(Answers(answer), timeout=0.01))
    # Warnings are errors, also those about coroutines that nobody awaited.
    gc.collect()
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_both_kinds_of_methods_are_a_store() -> None:
    class Shared:
        async def revoke(self, revocation: Revocation) -> None: ...

        async def is_revoked(self, identity: Identity) -> bool:
            return False

    stores: list[Store] = [MemoryStore(), Shared()]
    assert all(isinstance(store, Store) for store in stores)
    assert inspect.iscoroutinefunction(stores[1].is_revoked)


# --- revocation_for


def made(**changes: Any) -> Revocation:
    """What ``guard.revoke()`` asks for, with the configuration of one issuer unless told otherwise."""
    names = ("token_id", "subject", "issued_before", "issuer", "expires_at", "max_lifetime", "known_expiry")
    usual = {"issuers": frozenset({ISSUER}), "leeway": 10.0, "now": NOW}
    return revocation_for(**{**dict.fromkeys(names), **usual, **changes})


def of_issuers(*issuers: str, **arguments: Any) -> dict[str, Any]:
    return {"token_id": "t", "expires_at": NOW, "issuers": frozenset(issuers), **arguments}


ACME = "https://login.microsoftonline.com/acme/v2.0"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"token_id": "t", "expires_at": NOW + 60}, Revocation(ISSUER, "t", None, None, NOW + 70)),
        ({"token_id": "t", "known_expiry": NOW + 30}, Revocation(ISSUER, "t", None, None, NOW + 40)),
        # The later end counts.
        (
            {"token_id": "t", "expires_at": NOW + 60, "known_expiry": NOW + 90, "max_lifetime": 5},
            Revocation(ISSUER, "t", None, None, NOW + 100),
        ),
        (
            {"token_id": "t", "expires_at": NOW + 60, "known_expiry": NOW + 30},
            Revocation(ISSUER, "t", None, None, NOW + 70),
        ),
        # Issued now by a clock that is ahead by the leeway, and accepted for another one after exp.
        ({"token_id": "t", "max_lifetime": 3600}, Revocation(ISSUER, "t", None, None, NOW + 3620)),
        ({"token_id": 7, "known_expiry": NOW + 30}, Revocation(ISSUER, "7", None, None, NOW + 40)),
        # All of the running second counts as before.
        (
            {"subject": "ann", "max_lifetime": 3600},
            Revocation(ISSUER, None, "ann", math.floor(NOW) + 1, math.floor(NOW) + 1 + 3610),
        ),
        (
            {"subject": 42, "max_lifetime": 3600, "issued_before": NOW - 5},
            Revocation(ISSUER, None, "42", NOW - 5, NOW - 5 + 3610),
        ),
        # A subject that has an open connection is nothing special.
        (
            {"subject": "ann", "max_lifetime": 60, "issued_before": NOW, "known_expiry": NOW + 9},
            Revocation(ISSUER, None, "ann", NOW, NOW + 70),
        ),
        # Small times pass under a clock that begins at nought.
        ({"token_id": "t", "expires_at": 3600, "now": 0.0}, Revocation(ISSUER, "t", None, None, 3610)),
        *(
            (arguments, Revocation(issuer, "t", None, None, NOW + 10))
            for arguments, issuer in [
                (of_issuers(), None),
                (of_issuers(issuer=OTHER), OTHER),
                (of_issuers(ISSUER), ISSUER),
                (of_issuers(ISSUER, issuer=ISSUER), ISSUER),
                (of_issuers(ISSUER, OTHER, issuer=OTHER), OTHER),
                (of_issuers(TEMPLATE, issuer=ACME), ACME),
                (of_issuers(TEMPLATE, ISSUER, issuer=ISSUER), ISSUER),
            ]
        ),
    ],
)
def test_what_revoke_asks_for(arguments: dict[str, Any], expected: Revocation) -> None:
    assert made(**arguments) == expected


TOKEN = {"token_id": "t", "expires_at": NOW}
SUBJECT = {"subject": "ann", "max_lifetime": 60}


@pytest.mark.parametrize(
    ("arguments", "option", "text"),
    [
        ({}, "token_id", "exactly one of token_id and subject"),
        ({**TOKEN, **SUBJECT}, "subject", "exactly one of token_id and subject"),
        ({"token_id": "t"}, "expires_at", "JWTAuth(max_lifetime=…)"),
        ({"subject": "ann"}, "max_lifetime", "JWTAuth(max_lifetime=…)"),
        ({"subject": "ann", "known_expiry": NOW}, "max_lifetime", "JWTAuth(max_lifetime=…)"),
        ({**SUBJECT, "expires_at": NOW}, "expires_at", "follows from max_lifetime"),
        ({**TOKEN, "issued_before": NOW}, "issued_before", "goes with subject"),
        *(({**TOKEN, "token_id": value}, "token_id", "non-empty string") for value in ("", True, b"t")),
        ({**TOKEN, "token_id": "eyJhbGciOiJub25lIn0.e30.secret"}, "token_id", "write its id"),
        *(({**SUBJECT, "subject": value}, "subject", "non-empty string") for value in ("", 1.5)),
        *(
            ({**TOKEN, "expires_at": value}, "expires_at", "moment.timestamp()")
            for value in (True, "2030-01-01", math.nan, -NOW)
        ),
        *(({**TOKEN, "expires_at": value}, "expires_at", "after the year 9999") for value in (math.inf, 10**400)),
        ({**TOKEN, "expires_at": NOW * 1000}, "expires_at", "is it in milliseconds?"),
        ({**TOKEN, "expires_at": 3600}, "expires_at", "Write time.time() + 3600"),
        ({**SUBJECT, "issued_before": NOW * 1000}, "issued_before", "milliseconds"),
        ({**SUBJECT, "issued_before": math.nan}, "issued_before", "moment.timestamp()"),
        ({**SUBJECT, "issued_before": 0}, "issued_before", "is it a duration?"),
        (of_issuers(ISSUER, OTHER), "issuer", f"one of: {ISSUER}, {OTHER}"),
        (of_issuers(TEMPLATE), "issuer", "needs issuer="),
        (of_issuers(ISSUER, issuer=OTHER), "issuer", f"one of: {ISSUER}"),
        (of_issuers(ISSUER, issuer=ISSUER.rstrip("/")), "issuer", f"one of: {ISSUER}"),
        (of_issuers(ISSUER, issuer=""), "issuer", "non-empty string"),
        (of_issuers(ISSUER, issuer=5), "issuer", "non-empty string"),
        *(
            (of_issuers(TEMPLATE, issuer=issuer), "issuer", "in place of the {placeholders}")
            for issuer in (
                TEMPLATE,
                "https://login.microsoftonline.com/a/b/v2.0",
                "https://login.microsoftonline.com//v2.0",
                "https://login.microsoftonline.com/a/v2.0x",
                "https://login-microsoftonline.com/a/v2.0",
            )
        ),
    ],
)
def test_wrong_arguments_of_revoke(arguments: dict[str, Any], option: str, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        made(**arguments)
    assert caught.value.option == option
    assert text in str(caught.value)
    assert "secret" not in str(caught.value)


@given(
    issued_at=st.floats(NOW - 7200, NOW + 60),
    lifetime=st.integers(1, 7200),
    leeway=st.sampled_from([0.0, 10.0, 60.0]),
    by_subject=st.booleans(),
    wait=st.floats(0, 10_000),
)
def test_no_token_outlives_its_revocation(
    issued_at: float, lifetime: int, leeway: float, by_subject: bool, wait: float
) -> None:
    assume(issued_at <= NOW + leeway)
    expires_at = issued_at + lifetime
    who = Identity("ann", issuer=ISSUER, token_id="t", issued_at=issued_at, expires_at=expires_at)
    clock = Clock(NOW)
    store = MemoryStore(clock=clock)
    selector = {"subject": "ann", "issued_before": NOW + 61} if by_subject else {"token_id": "t"}
    store.revoke(made(**selector, leeway=leeway, max_lifetime=lifetime))
    clock.now = NOW + wait
    assert store.is_revoked(who) or clock.now >= expires_at + leeway


@pytest.mark.parametrize("fail_open", [False, True])
def test_an_outage_lasts_until_it_is_time_to_ask_again(fail_open: bool) -> None:
    clock = Clock(100.0)
    store = Answers(raising(OSError("down")))
    revocations = Revocations(store, timeout=1, fail_open=fail_open, clock=clock)
    assert revocations.outage() is None
    revocations.check(identity())
    assert revocations.outage() == (None if fail_open else RETRY_AFTER)
    clock.now += RETRY_AFTER - 0.5
    assert revocations.outage() == (None if fail_open else 1)
    clock.now += 0.5
    assert revocations.outage() is None, "somebody must ask, or nobody ever knows"
    store.answer = lambda: False
    revocations.check(identity())
    assert revocations.outage() is None
