"""The cache of an identity provider's keys: when it fetches, what it serves, and what it does in an outage."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import itertools
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from socketguard.connection import KeysChange
from socketguard.errors import ConfigurationError, RejectCode, TokenError
from socketguard.tokens.fetch import BODY_LIMIT
from socketguard.tokens.jwks import Discovery, RemoteKeys
from socketguard.tokens.keys import Pending, PreparedKey
from tests.tokens.minting import DOWN, KeyServer, jwk, private, signature

URL = "https://keys.example.com/jwks"
ISSUER = "https://login.example.com/tenant"
DISCOVERY = f"{ISSUER}/.well-known/openid-configuration"
LIFETIME, STALE, COOLDOWN = 600.0, 3600.0, 30.0
Found = Sequence[PreparedKey] | Pending | TokenError


def of(*key_ids: str) -> list[dict[str, Any]]:
    return [jwk(f"p256:{key_id}", key_id) for key_id in key_ids]


def looked_up(keys: RemoteKeys, key_id: str | None, algorithm: str = "ES256") -> Found:
    try:
        return keys.candidates(algorithm, key_id)
    except TokenError as error:
        return error


class Provider(KeyServer):
    """An identity provider, the clock, and the cache of its keys."""

    def __init__(self, *key_ids: str, answer: Any = ..., url: Any = URL, **options: Any) -> None:
        super().__init__(*of(*key_ids or ("a",)), issuer=ISSUER)
        self.answer = answer
        self.now = 1_000.0
        self.jitter = 0.0
        defaults: dict[str, Any] = {
            "algorithms": ("ES256", "RS256"),
            "fetch": self,
            "clock": lambda: self.now,
            "jitter": lambda: self.jitter,
            # The deadline of a request is on the loop's own clock, and here it must never come.
            "timeout": 60,
        }
        self.cache = RemoteKeys(url, **(defaults | options))

    def held_back(self) -> asyncio.Event:
        """From now on answers come when this is set."""
        opened = asyncio.Event()

        async def answer() -> bytes:
            await opened.wait()
            return self.jwks

        self.answer = answer
        return opened

    def find(self, key_id: str | None = "a", algorithm: str = "ES256") -> Found:
        return looked_up(self.cache, key_id, algorithm)

    def refused(self, key_id: str | None = "a", algorithm: str = "ES256") -> TokenError:
        found = self.find(key_id, algorithm)
        assert isinstance(found, TokenError), found
        return found

    def pending(self, key_id: str | None = "a") -> Pending:
        found = self.find(key_id)
        assert isinstance(found, Pending), found
        return found

    def serves(self, key_id: str | None = "a") -> bool:
        found = self.find(key_id)
        return isinstance(found, tuple) and [key.algorithm for key in found] == ["ES256"]

    async def load(self) -> bool:
        """Fetch, if a key that nobody has may be looked for now; whether keys came."""
        found = self.find("nobody's")
        return isinstance(found, Pending) and await self.cache.load(found)

    def waiting(self, key_id: str = "a") -> asyncio.Future[bool]:
        return asyncio.ensure_future(self.cache.load(self.pending(key_id)))

    async def settled(self) -> None:
        """Until the attempt that is under way has ended."""
        tasks = [task for task in asyncio.all_tasks() if task.get_name() == "socketguard-jwks"]
        if tasks:
            await asyncio.wait(tasks)

    @property
    def changes(self) -> list[KeysChange]:
        return [change for _, change in self.cache.changes()]

    @property
    def reason(self) -> str:
        return str(self.changes[-1].fields["reason"])


async def loaded(*key_ids: str, **options: Any) -> Provider:
    provider = Provider(*key_ids, **options)
    assert await provider.load() is True
    return provider


class TestFirstFetch:
    async def test_the_first_tokens_all_wait_for_the_same_one(self) -> None:
        provider = Provider()
        opened = provider.held_back()
        assert provider.pending() == Pending("keys_pending", {"retry_after": 1}, 0)
        assert provider.asked == []
        waiting = [provider.waiting() for _ in range(50)]
        provider.cache.start()
        opened.set()
        assert await asyncio.gather(*waiting) == [True] * 50
        assert provider.serves()
        assert provider.asked == [URL]

    async def test_begins_when_the_application_starts(self) -> None:
        provider = Provider()
        for _ in range(3):
            provider.cache.start()
        await provider.settled()
        assert provider.serves()
        provider.cache.start()
        await provider.settled()
        assert provider.asked == [URL]

    def test_outside_of_a_loop_nothing_is_fetched_and_nothing_breaks(self) -> None:
        provider = Provider()
        assert provider.pending().detail == "keys_pending"
        assert provider.cache.outage() is None
        provider.cache.start()
        assert provider.asked == []
        provider.answer = DOWN
        assert asyncio.run(provider.load()) is False
        provider.now += COOLDOWN
        assert provider.cache.outage() == 1
        provider.answer = ...
        assert asyncio.run(provider.load()) is True
        assert provider.serves()

    async def test_a_token_whose_turn_comes_after_the_fetch_needs_no_other(self) -> None:
        provider = Provider()
        late = provider.pending()
        assert await provider.load() is True
        provider.now += COOLDOWN
        assert await provider.cache.load(late) is True
        assert provider.asked == [URL]

    async def test_the_fetch_belongs_to_no_client(self) -> None:
        client = contextvars.ContextVar("client", default="none")
        seen: list[str] = []

        async def answer() -> bytes:
            seen.append(client.get())
            return provider.jwks

        client.set("somebody")
        provider = Provider(answer=answer)
        assert await provider.load() is True
        assert seen == ["none"]

    async def test_is_told_with_ignored_keys(self) -> None:
        provider = Provider("a", "b")
        provider.keys.append({"kty": "oct", "kid": "s", "k": "AA"})
        assert await provider.load() is True
        ignored = ["key s: a shared secret is no secret when it is published"]
        fields = {"url": URL, "keys": 2, "key_ids": ["a", "b"], "ignored": ignored}
        assert provider.changes == [KeysChange("refreshed", fields)]


class TestRefresh:
    async def test_in_the_background_after_most_of_the_lifetime(self) -> None:
        provider = await loaded()
        provider.now += LIFETIME * 0.8 - 0.1
        assert provider.serves()
        await provider.settled()
        assert len(provider.asked) == 1
        opened = provider.held_back()
        provider.now += 0.1
        assert all(provider.serves() for _ in range(5))
        opened.set()
        await provider.settled()
        assert len(provider.asked) == 2
        provider.now += LIFETIME * 0.8 - 0.1
        assert provider.serves()
        await provider.settled()
        assert len(provider.asked) == 2

    async def test_a_removed_key_is_dead_at_once_and_an_added_one_there(self) -> None:
        provider = await loaded("a", "b")
        provider.keys = of("b", "c")
        provider.now += LIFETIME * 0.8
        assert provider.serves("a")
        await provider.settled()
        assert provider.refused("a").detail == "key_unknown"
        assert provider.serves("b")
        assert provider.serves("c")
        assert [change.fields["key_ids"] for change in provider.changes] == [["a", "b"], ["b", "c"]]

    async def test_the_same_keys_again_are_not_told(self) -> None:
        provider = await loaded("a", "b")
        provider.keys.reverse()
        provider.now += LIFETIME * 0.8
        assert provider.serves()
        await provider.settled()
        assert (len(provider.asked), len(provider.changes)) == (2, 1)


class TestUnknownKey:
    async def test_is_looked_for_once_in_a_cool_down_whoever_asks(self) -> None:
        provider = await loaded("a")
        error = provider.refused("b\n")
        # No outage: the keys were fetched just now, without this one.
        assert (error.code, error.detail) == (RejectCode.TOKEN_INVALID, "key_unknown")
        assert error.fields == {"key_id": "b\\u000a"}
        provider.now += COOLDOWN - 0.5
        assert provider.refused("b").code is RejectCode.TOKEN_INVALID
        provider.now += 0.5
        assert provider.pending("b") == Pending("key_unknown", {"key_id": "b", "retry_after": 1}, 1)
        late = provider.pending("b")
        assert await provider.cache.load(late) is True
        assert all(provider.refused(str(number)) for number in range(20))
        assert len(provider.asked) == 2

    async def test_without_an_id_any_key_for_the_algorithm_will_do_and_with_it_only_that_one(self) -> None:
        provider = await loaded("a")
        assert provider.serves(None)
        error = provider.refused(None, "RS256")
        assert (error.code, error.detail, error.fields) == (RejectCode.TOKEN_INVALID, "key_unknown", {})
        # A key that is there for another algorithm is not looked for.
        provider.now += COOLDOWN
        error = provider.refused("a", "RS256")
        assert (error.code, error.detail) == (RejectCode.TOKEN_INVALID, "algorithm_not_allowed")


class TestCoolDown:
    async def test_counts_failed_attempts_too(self) -> None:
        provider = Provider(answer=DOWN)
        late = provider.pending()
        assert await provider.cache.load(late) is False
        error = provider.refused()
        assert (error.code, error.detail) == (RejectCode.KEYS_UNAVAILABLE, "keys_unavailable")
        assert error.fields == {"retry_after": 30}
        assert await provider.cache.load(late) is False
        provider.cache.start()
        await provider.settled()
        assert len(provider.asked) == 1
        provider.now += COOLDOWN
        assert await provider.waiting() is False
        assert len(provider.asked) == 2

    async def test_is_longer_at_random(self) -> None:
        provider = Provider(answer=DOWN)
        provider.jitter = 1.0
        assert await provider.waiting() is False
        assert provider.refused().fields["retry_after"] == 36
        provider.now += 35.9
        assert provider.refused().fields["retry_after"] == 1
        provider.now += 0.1
        assert await provider.waiting() is False
        assert len(provider.asked) == 2

    async def test_begins_when_the_attempt_ends(self) -> None:
        provider = Provider()
        opened = provider.held_back()
        waiting = [provider.waiting()]
        await asyncio.sleep(0)
        provider.now += COOLDOWN * 2
        waiting.append(provider.waiting())
        await asyncio.sleep(0)
        opened.set()
        assert await asyncio.gather(*waiting) == [True, True]
        provider.now += COOLDOWN - 0.1
        assert provider.refused("b").detail == "key_unknown"
        assert provider.asked == [URL]


class TestOutage:
    async def test_stale_keys_serve_and_then_no_more(self) -> None:
        provider = await loaded()
        start = provider.now
        provider.answer = OSError("Name or service not known")
        provider.now = start + LIFETIME * 0.8
        while provider.now < start + LIFETIME + STALE:
            # In a known outage nobody waits for an attempt.
            assert provider.serves(), provider.now - start
            await provider.settled()
            assert provider.cache.outage() is None
            provider.now += 10
        assert provider.now == start + LIFETIME + STALE
        assert len(provider.asked) - 1 == (LIFETIME * 0.2 + STALE) / COOLDOWN
        found = provider.find()
        assert isinstance(found, Pending | TokenError)
        assert found.detail in ("keys_pending", "keys_unavailable")
        provider.now += COOLDOWN
        assert await provider.waiting() is False
        assert provider.refused().fields == {"retry_after": 30}
        reason = "OSError: Name or service not known"
        assert [change.fields for change in provider.changes if change.kind == "unavailable"] == [
            {"url": URL, "reason": reason, "serving": "stale", "serving_s": 3720},
            {"url": URL, "reason": reason, "serving": "none", "serving_s": 0},
        ]

    async def test_is_told_once_and_its_end_too(self) -> None:
        provider = await loaded()
        provider.answer = DOWN
        for _ in range(3):
            provider.now += LIFETIME * 0.8
            assert await provider.load() is False
        assert [change.kind for change in provider.changes] == ["refreshed", "unavailable"]
        provider.answer = ...
        provider.now += COOLDOWN
        assert await provider.load() is True
        assert [change.kind for change in provider.changes] == ["refreshed", "unavailable", "refreshed"]

    async def test_one_of_long_ago_says_nothing_about_now(self) -> None:
        provider = await loaded()
        provider.answer = DOWN
        provider.now += LIFETIME * 0.8
        assert await provider.load() is False
        provider.now += LIFETIME
        provider.answer, provider.keys = ..., of("b")
        assert await provider.waiting("a") is True
        assert provider.serves("b")

    async def test_tries_again_by_itself(self) -> None:
        provider = Provider(answer=DOWN, timeout=5)
        assert await provider.load() is False
        assert provider.cache.outage() == 30
        provider.now += 29.5
        assert provider.cache.outage() == 1
        opened = provider.held_back()
        provider.now += 0.5
        assert provider.cache.outage() == 5
        assert provider.cache.outage() == 5
        assert provider.pending().fields == {"retry_after": 1}
        opened.set()
        await provider.settled()
        assert provider.cache.outage() is None
        assert len(provider.asked) == 2

    async def test_without_stale_keys(self) -> None:
        provider = await loaded(stale_if_error=0)
        provider.answer = DOWN
        provider.now += LIFETIME
        assert await provider.waiting() is False
        assert provider.refused().detail == "keys_unavailable"


JWKS = Provider("a").jwks
HUGE = b'{"keys": [1' + b"0" * 5000 + b"]}"  # more digits than Python takes


class TestAnswers:
    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            *(
                (answer, "the answer is no JSON in UTF-8")
                for answer in (b"", b"<html>", JWKS[:-1], JWKS.decode().encode("utf-16"), b"[" * 200_000, HUGE)
            ),
            (b"[]", "the answer must be a JSON object, not list"),
            (b"{}", 'the answer has no list "keys"'),
            (b'{"keys": []}', "no key of the set can be used"),
            (b'{"keys": [{"kty": "oct"}]}', "no key of the set can be used; key 1: a shared secret is no secret"),
            (JWKS.decode(), "fetch must return bytes, not str"),
            (None, "fetch must return bytes, not NoneType"),
            (b" " * BODY_LIMIT + JWKS, "the body is larger than 1048576 bytes"),
            (ValueError(), "ValueError"),
            (ValueError("a\nb\x1b" + "c" * 1000), "ValueError: a\\u000ab\\u001bccc"),
            (TimeoutError(), "no complete answer within 60 s"),
            (asyncio.CancelledError(), "Escaped: CancelledError"),
            (GeneratorExit(), "Escaped: GeneratorExit"),
        ],
    )
    async def test_that_can_not_be_used_leave_the_old_keys(self, answer: Any, reason: str) -> None:
        provider = await loaded()
        provider.answer = answer
        provider.now += COOLDOWN
        assert await provider.load() is False
        assert provider.reason.startswith(reason)
        assert len(provider.reason) <= 520
        assert provider.serves()

    async def test_exactly_as_large_as_is_allowed(self) -> None:
        await loaded(answer=JWKS + b" " * (BODY_LIMIT - len(JWKS)))

    async def test_that_never_come(self) -> None:
        await self.never_comes(asyncio.Event().wait)

    async def never_comes(self, answer: Callable[[], Any]) -> None:
        provider = Provider(answer=answer, timeout=0.01)
        assert await asyncio.wait_for(provider.load(), 10) is False
        assert provider.reason == "no complete answer within 0.01 s"

    @pytest.mark.parametrize("ending", [None, ValueError("late")])
    async def test_that_come_late_from_a_function_that_can_not_be_cancelled(self, ending: Exception | None) -> None:
        async def stubborn() -> bytes:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if ending is not None:
                    raise ending from None
            return JWKS

        reported: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))
        await self.never_comes(stubborn)
        gc.collect()
        assert reported == []

    async def test_that_never_come_from_a_function_that_can_not_be_cancelled(self) -> None:
        """What goes on in spite of its cancellation is left alone after a while."""
        opened = asyncio.Event()

        async def stubborn() -> None:
            while not opened.is_set():
                try:
                    await opened.wait()
                except asyncio.CancelledError:
                    continue

        await self.never_comes(stubborn)
        opened.set()

    @pytest.mark.parametrize(
        ("fetch", "reason"),
        [(lambda url: JWKS, "TypeError: "), (lambda url: 1 / 0, "ZeroDivisionError: division by zero")],
    )
    async def test_a_function_that_is_not_async(self, fetch: Any, reason: str) -> None:
        provider = Provider(fetch=fetch)
        assert await provider.load() is False
        assert provider.reason.startswith(reason)


async def test_close_ends_the_attempt_and_those_who_wait() -> None:
    provider = Provider()
    await provider.cache.close()
    assert provider.asked == []
    provider.held_back()
    waiting = provider.waiting()
    await asyncio.sleep(0)
    await provider.cache.close()
    assert await waiting is False
    provider.answer = ...
    assert await provider.load() is True
    await provider.cache.close()
    assert provider.serves()
    assert [change.kind for change in provider.changes] == ["refreshed"]


def test_a_loop_that_ended_without_cancelling() -> None:
    opened: list[asyncio.Future[bytes]] = []

    async def never() -> bytes:
        opened.append(asyncio.get_running_loop().create_future())
        return await opened[0]

    provider = Provider(answer=never)
    with contextlib.closing(asyncio.new_event_loop()) as dead:
        task = dead.create_task(provider.load())
        while not opened:
            dead.run_until_complete(asyncio.sleep(0))
        provider.answer = ...
        assert provider.cache.outage() is None
        assert provider.pending().detail == "keys_pending"
        assert asyncio.run(provider.load()) is True
        assert provider.serves()
        # What arrives there later replaces nothing that is newer.
        opened[0].set_result(Provider("b").jwks)
        assert dead.run_until_complete(task) is True
        assert provider.serves("a")
        assert len(provider.changes) == 1


async def test_the_status_in_every_state() -> None:
    nothing = {"url": URL, "age_s": None, "keys": 0, "key_ids": []}
    provider = Provider()
    assert provider.cache.status() == nothing | {"state": "empty"}
    assert await provider.load() is True
    provider.answer = DOWN
    provider.now += 100.04
    fresh = {"url": URL, "state": "fresh", "age_s": 100.0, "keys": 1, "key_ids": ["a"]}
    assert provider.cache.status() == fresh
    provider.now += LIFETIME
    assert await provider.load() is False
    assert provider.cache.status() == fresh | {"state": "stale", "age_s": 700.0}
    provider.now += STALE
    assert provider.cache.status() == nothing | {"state": "unavailable"}


async def test_changes_are_numbered_across_caches_and_the_last_ones_remembered() -> None:
    one, two = await loaded(), await loaded()
    for number in range(70):
        one.answer = ... if number % 2 else DOWN
        one.now += LIFETIME * 0.8
        await one.load()
    (first, _), *_, (last, _) = one.cache.changes()
    ((other, _),) = two.cache.changes()
    assert (len(one.changes), last - first) == (64, 63)
    assert other < first


class TestDiscovery:
    @staticmethod
    def provider(document: Any, issuer: str = ISSUER) -> Provider:
        provider = Provider(url=Discovery(issuer))
        provider.document = document
        return provider

    async def test_asks_the_issuer_for_the_address(self) -> None:
        document = {"issuer": ISSUER, "jwks_uri": URL, "id_token_signing_alg_values_supported": ["none", "HS256"]}
        provider = self.provider(document)
        assert await provider.load() is True
        assert provider.asked == [DISCOVERY, URL]
        assert provider.serves()
        assert provider.cache.status()["url"] == DISCOVERY
        assert provider.cache.kinds == (f"discovery {DISCOVERY}",)
        provider.document, provider.keys = {"issuer": ISSUER, "jwks_uri": f"{URL}2"}, of("b")
        provider.now += COOLDOWN
        assert await provider.load() is True
        assert provider.asked[2:] == [DISCOVERY, f"{URL}2"]
        assert provider.serves("b")

    async def test_a_slash_at_the_end_of_the_issuer(self) -> None:
        provider = self.provider({"issuer": f"{ISSUER}/", "jwks_uri": URL}, f"{ISSUER}/")
        assert await provider.load() is True
        assert provider.asked == [DISCOVERY, URL]

    @pytest.mark.parametrize(
        ("document", "reason"),
        [
            ({"jwks_uri": URL}, "the discovery document is of another issuer: None"),
            ({"issuer": f"{ISSUER}/", "jwks_uri": URL}, f"the discovery document is of another issuer: {ISSUER}/"),
            ({"issuer": ISSUER}, "jwks_uri in the discovery document must be a URL"),
            ({"issuer": ISSUER, "jwks_uri": [URL]}, "jwks_uri in the discovery document must be a URL"),
            *(
                ({"issuer": ISSUER, "jwks_uri": url}, "jwks_uri in the discovery document must begin with https")
                for url in ("http://x/", "file:///etc/passwd", "http://localhost/")
            ),
            ([ISSUER], "the answer must be a JSON object, not list"),
        ],
    )
    async def test_documents_that_are_not_followed(self, document: Any, reason: str) -> None:
        provider = self.provider(document)
        assert await provider.load() is False
        assert provider.reason.startswith(reason)
        assert provider.asked == [DISCOVERY]


class TestConfiguration:
    @pytest.mark.parametrize(
        ("options", "option", "text"),
        [
            ({"algorithms": ("HS256",)}, "algorithms", "can't be a shared secret"),
            *(
                ({"url": url}, "jwks_url", text)
                for text, urls in {
                    "must be a URL in ASCII without spaces": (None, 5, "https://x/a b", "https://x/\n", "https://éx/"),
                    "must begin with https": ("", "login.example.com/jwks", "https:///jwks", "http://x/"),
                    "name a host": ("https:///jwks",),
                    "can't be read": ("https://[::1", "https://x:99999/"),
                    "no fragment": ("https://x/#",),
                    "no credentials": ("https://user:hunter2@x/", "https://user@x/", "https://:hunter2@x/"),
                    "allow_http=True": ("http://localhost/",),
                }.items()
                for url in urls
            ),
            *(
                ({"url": f"http://{host}/", "allow_http": True}, "jwks_url", "could sign every token")
                for host in ("10.0.0.1", "localhost.example.com", "127.0.0.1.example.com")
            ),
            ({"url": "ftp://localhost/", "allow_http": True}, "jwks_url", "must begin with https"),
            ({"url": Discovery("")}, "issuer", "must begin with https"),
            ({"url": Discovery("http://x/")}, "issuer", "https"),
            ({"url": Discovery("https://x/?a=b")}, "issuer", "no query"),
            ({"fetch": "https"}, "fetch", "async function"),
            ({"lifetime": 0}, "jwks_lifetime", "from 1 to 86,400; write jwks_lifetime=86400 or less"),
            *(
                ({"lifetime": value}, "jwks_lifetime", "number of seconds")
                for value in ("600", True, math.nan, math.inf)
            ),
            ({"stale_if_error": -1}, "stale_if_error", "from 0"),
            ({"cooldown": 0}, "jwks_cooldown", "from 0.1"),
            ({"cooldown": 30, "lifetime": 35}, "jwks_cooldown", r"write jwks_cooldown=17\.5 or less"),
            ({"timeout": 0}, "jwks_timeout", r"from 0\.01 to 60"),
            ({"timeout": None}, "jwks_timeout", "number of seconds"),
        ],
    )
    def test_refused(self, options: dict[str, Any], option: str, text: str) -> None:
        with pytest.raises(ConfigurationError, match=text) as caught:
            Provider(**options)
        assert caught.value.option == option
        assert "hunter2" not in str(caught.value)

    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3:8080", "[::1]", "LOCALHOST"])
    async def test_http_for_this_machine(self, host: str) -> None:
        provider = await loaded(url=f"http://{host}/jwks", allow_http=True)
        assert provider.asked == [f"http://{host}/jwks"]

    def test_the_shortest_times(self) -> None:
        cache = Provider(lifetime=36, cooldown=30, stale_if_error=0, timeout=0.01).cache
        assert cache.status()["state"] == "empty"

    async def test_a_query_is_not_shown(self) -> None:
        provider = Provider(url=f"{URL}?apikey=hunter2", answer=DOWN)
        assert await provider.load() is False
        assert provider.asked == [f"{URL}?apikey=hunter2"]
        shown = repr(provider.cache), provider.cache.kinds, provider.cache.status(), provider.changes
        assert "hunter2" not in str(shown)
        assert shown[:2] == (f"<RemoteKeys {URL}>", (f"JWKS {URL}",))


IDS = ("a", "b", "c", "d", "e")
TURNS = 30  # of the loop, in which everything that waits for nobody else comes to its end


class CacheMachine(RuleBasedStateMachine):
    """The cache against a model of it, whatever the clients, the provider and the clock do.

    The model knows what the provider delivered last and when, when an attempt ended last, and whether it failed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.reported: list[dict[str, Any]] = []
        self.watch(self.loop)
        self.now = 0.0
        self.published: set[str] = set()
        self.mode = "up"
        self.flying: list[asyncio.Future[None]] = []
        self.most_flying = 0
        self.too_early: list[float] = []
        # The model.
        self.delivered: set[str] | None = None
        self.delivered_at = 0.0
        self.ended_at = float("-inf")
        self.failing = False
        self.waiters: list[tuple[str, int, asyncio.Task[bool]]] = []
        self.successes = 0
        self.keys = RemoteKeys(
            URL, algorithms=("ES256",), fetch=self.fetch, timeout=60, clock=lambda: self.now, jitter=lambda: 0.0
        )

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.set_exception_handler(lambda loop, context: self.reported.append(context))

    async def fetch(self, url: str) -> bytes:
        if self.now < self.ended_at + COOLDOWN:
            self.too_early.append(self.now)
        done = asyncio.get_running_loop().create_future()
        self.flying.append(done)
        self.most_flying = max(self.most_flying, len(self.flying))
        try:
            if self.mode == "slow":
                await done
        finally:
            self.flying.remove(done)
        self.ended_at = self.now
        self.failing = self.mode not in ("up", "slow") or not self.published
        if self.mode == "down":
            raise DOWN
        if self.mode == "garbage":
            return b"<html>"
        if self.published:
            self.successes += 1
            self.delivered, self.delivered_at = set(self.published), self.now
        return json.dumps({"keys": of(*sorted(self.published))}).encode()

    def turn(self) -> None:
        async def turns() -> None:
            for _ in range(TURNS):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())

    def inside(self, call: Callable[[], Any]) -> Any:
        """Call it in the loop, as the guard does."""

        async def run() -> Any:
            return call()

        return self.loop.run_until_complete(run())

    @property
    def age(self) -> float:
        return self.now - self.delivered_at

    @property
    def usable(self) -> bool:
        return self.delivered is not None and self.age < LIFETIME + STALE

    @property
    def may_wait(self) -> bool:
        return bool(self.flying) or self.now >= self.ended_at + COOLDOWN

    def expected(self, key_id: str) -> str:
        """What becomes of a token: found, pending or refused."""
        waits = "pending" if self.may_wait else "refused"
        if not self.usable:
            return waits
        known_outage = self.failing and self.now < self.ended_at + 2 * COOLDOWN
        if self.age >= LIFETIME and not known_outage and self.may_wait:
            return "pending"
        return "found" if self.delivered is not None and key_id in self.delivered else waits

    def look_up(self, key_id: str) -> Pending | None:
        expected = self.expected(key_id)
        found = self.inside(lambda: looked_up(self.keys, key_id))
        if isinstance(found, TokenError):
            assert expected == "refused"
            assert found.detail == ("key_unknown" if self.usable else "keys_unavailable")
            if self.usable and not self.failing:
                assert found.code is RejectCode.TOKEN_INVALID
            else:
                assert found.code is RejectCode.KEYS_UNAVAILABLE
                assert 1 <= found.fields["retry_after"] <= COOLDOWN
            return None
        if isinstance(found, Pending):
            assert expected == "pending"
            return found
        assert expected == "found"
        # Written out once more, since these are what matters: never a removed key, never one that is too old.
        assert self.delivered is not None
        assert key_id in self.delivered
        assert self.now - self.delivered_at < LIFETIME + STALE
        (key,) = found
        assert key.verify(b"message", signature(private(f"p256:{key_id}"), "ES256"))
        return None

    @initialize(published=st.sets(st.sampled_from(IDS)))
    def publish_first(self, published: set[str]) -> None:
        self.published = published

    @rule(seconds=st.sampled_from([0.5, 5.0, 29.5, 30.0, 31.0, 119.0, 480.0, 600.0, 3600.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(key_id=st.sampled_from(IDS))
    def key_is_added(self, key_id: str) -> None:
        self.published.add(key_id)

    @rule(key_id=st.sampled_from(IDS))
    def key_is_removed(self, key_id: str) -> None:
        self.published.discard(key_id)

    @rule(mode=st.sampled_from(["up", "slow", "down", "garbage"]))
    def provider_changes(self, mode: str) -> None:
        self.mode = mode

    @precondition(lambda self: self.flying)
    @rule()
    def answer_comes(self) -> None:
        self.flying[0].set_result(None)
        self.turn()

    @rule(key_id=st.sampled_from([*IDS, "unknown"]))
    def token_that_waits(self, key_id: str) -> None:
        pending = self.look_up(key_id)
        if pending is not None:
            self.waiters.append((key_id, self.successes, self.loop.create_task(self.keys.load(pending))))
        self.turn()

    @rule(key_id=st.sampled_from([*IDS, "unknown"]))
    def token_that_does_not_wait(self, key_id: str) -> None:
        self.look_up(key_id)
        self.turn()

    @precondition(lambda self: self.waiters)
    @rule(data=st.data())
    def client_leaves(self, data: st.DataObject) -> None:
        self.waiters.pop(data.draw(st.integers(0, len(self.waiters) - 1)))[2].cancel()
        self.turn()

    @rule()
    def start(self) -> None:
        self.inside(self.keys.start)
        self.turn()

    @rule()
    def outage(self) -> None:
        usable, failing = self.usable, self.failing
        seconds = self.inside(self.keys.outage)
        if usable or not failing:
            assert seconds is None
        else:
            assert 1 <= seconds <= 60
        self.turn()

    @rule()
    def close(self) -> None:
        self.loop.run_until_complete(self.keys.close())
        self.turn()

    @rule()
    def loop_changes(self) -> None:
        self.end_loop()
        self.loop = asyncio.new_event_loop()
        self.watch(self.loop)

    @invariant()
    def one_at_a_time(self) -> None:
        assert self.most_flying <= 1

    @invariant()
    def pauses_between_attempts(self) -> None:
        # One that was ended from outside had no answer, so that the next need not wait for it.
        assert self.too_early == []

    @invariant()
    def whoever_waited_is_told_whether_keys_came(self) -> None:
        for waiter in [waiter for waiter in self.waiters if waiter[2].done()]:
            self.waiters.remove(waiter)
            assert waiter[2].result() is (self.successes > waiter[1])

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        assert self.flying or all(waiter.done() for _, _, waiter in self.waiters)

    @invariant()
    def nothing_is_lost(self) -> None:
        assert self.reported == []

    @invariant()
    def changes_are_told_once(self) -> None:
        told = [(change.kind, change.fields.get("serving")) for _, change in self.keys.changes()]
        for earlier, later in itertools.pairwise(told):
            assert later[0] == "refreshed" or later != earlier
            assert (earlier, later) != (("unavailable", "none"), ("unavailable", "stale"))
        if told:
            assert (told[-1][0] == "unavailable") is self.failing

    @invariant()
    def status_agrees(self) -> None:
        status = self.keys.status()
        if self.usable:
            assert status["state"] == ("fresh" if self.age < LIFETIME else "stale")
            assert set(status["key_ids"]) == self.delivered
        else:
            assert status["state"] == ("unavailable" if self.failing else "empty")
            assert status["keys"] == 0

    def end_loop(self) -> None:
        async def end() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

        self.loop.run_until_complete(end())
        self.loop.close()
        self.waiters.clear()

    def teardown(self) -> None:
        self.end_loop()
        assert self.reported == []
        assert self.flying == []


TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(max_examples=150, stateful_step_count=40)
