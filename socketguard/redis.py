"""`RedisStore`: revocations, and who is to be disconnected, for all workers, in Redis or Valkey.

All keys share one hash tag, so that scripts run on a cluster too. Only the clock of the server counts.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, TypeAlias

from .check import called
from .connection import Identity
from .errors import ConfigurationError, SocketGuardError
from .limits.revocation import Revocation, StoreFull, StoreUnavailable, united
from .limits.shared import Beat, News

__all__ = [
    "RedisStore",
    "checked_prefix",
    "client_of",
    "raise_if_full",
    "revoke_call",
    "send_call",
    "statuses",
    "workers_call",
]

LEASE = 10.0
"""Seconds for which a worker counts as living after its last beat."""

KEPT = 600.0
"""Seconds for which entries of the log are kept."""

_MIRRORED = 100_000  # revocations that a worker can put back after the state was lost
_NEWS = 500  # entries of the log with one beat
_TOGETHER = 256  # identities that are asked about with one trip

_NOW = "local t = redis.call('TIME') local now = t[1] * 1000 + math.floor(t[2] / 1000) "

# Also of a log that was trimmed to nothing.
_LAST = """
local function last_of(log)
  if redis.call('EXISTS', log) == 0 then return '0-0' end
  local info = redis.call('XINFO', 'STREAM', log)
  for i = 1, #info, 2 do if info[i] == 'last-generated-id' then return info[i + 1] end end
end
"""

# KEYS: the revocation, the log. ARGV: its value, its end in ms, the entry or "", how long entries are kept in ms.
_REVOKE = (
    _NOW
    + _LAST
    + """
local value, left = ARGV[1], tonumber(ARGV[2]) - now
local old = redis.call('GET', KEYS[1])
if old and value ~= '*' and (old == '*' or tonumber(old) > tonumber(value)) then value = old end
left = math.max(left, redis.call('PTTL', KEYS[1]))
if left > 0 then redis.call('SET', KEYS[1], value, 'PX', left) end
if ARGV[3] == '' then return '' end
return redis.call('XADD', KEYS[2], 'MINID', '~', now - ARGV[4], '*', 'e', ARGV[3], 'p', last_of(KEYS[2]))
"""
)
# KEYS: the log. ARGV: the entry, how long entries are kept in ms.
_SEND = (
    _NOW
    + _LAST
    + "return redis.call('XADD', KEYS[1], 'MINID', '~', now - ARGV[2], '*', 'e', ARGV[1], 'p', last_of(KEYS[1]))"
)
# KEYS: leases, statuses.
_WORKERS = (
    _NOW
    + """
local found = {}
for _, worker in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], now, '+inf')) do
  table.insert(found, worker)
  table.insert(found, redis.call('HGET', KEYS[2], worker) or '{}')
end
return found
"""
)
# KEYS: leases, statuses, the epoch, the log. ARGV: worker, lease in ms, status, position or "", an epoch, how many.
_BEAT = (
    _NOW
    + _LAST
    + """
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
for _, dead in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. now)) do
  redis.call('ZREM', KEYS[1], dead)
  redis.call('HDEL', KEYS[2], dead)
end
redis.call('SET', KEYS[3], ARGV[5], 'NX')
local news = {}
if ARGV[4] ~= '' then news = redis.call('XRANGE', KEYS[4], '(' .. ARGV[4], '+', 'COUNT', ARGV[6]) end
return {tostring(now), redis.call('GET', KEYS[3]), last_of(KEYS[4]), news, redis.call('HGETALL', KEYS[2])}
"""
)


Call: TypeAlias = tuple[str, list[str], list[Any]]
"""A script, its keys and its arguments."""


def revoke_call(prefix: str, revocation: Revocation, *, by: str = "", tell: bool = True) -> Call:
    """Keep a revocation, and tell all workers of it unless they know."""
    value = "*" if revocation.issued_before is None else repr(float(revocation.issued_before))
    until = int(revocation.expires_at * 1000) + 1
    entry = _entry(by=by, revocation=revocation) if tell else ""
    keys = [_key_of(prefix, revocation.issuer, revocation.token_id, revocation.subject), f"{prefix}:log"]
    return _REVOKE, keys, [value, until, entry, int(KEPT * 1000)]


def send_call(prefix: str, selector: Mapping[str, Any], *, by: str = "") -> Call:
    """Ask all workers to disconnect somebody."""
    return _SEND, [f"{prefix}:log"], [_entry(by=by, selector=selector), int(KEPT * 1000)]


def workers_call(prefix: str) -> Call:
    """What the living workers say of themselves."""
    return _WORKERS, [f"{prefix}:workers", f"{prefix}:status"], []


def statuses(answer: Sequence[Any]) -> dict[str, Mapping[str, Any]]:
    """The answer to that, by worker."""
    return {worker: _status(text) for worker, text in _pairs(answer).items()}


def checked_prefix(prefix: Any) -> str:
    """The option ``prefix``, in the braces that keep all keys in one slot."""
    if not isinstance(prefix, str) or not prefix or not prefix.isprintable() or set(prefix) & set("{}"):
        raise ConfigurationError(f'prefix is {prefix!r}; write prefix="socketguard"', option="prefix")
    return f"{{{prefix}}}"


class RedisStore:
    """Keeps revocations in Redis (6.2 or newer) or Valkey, for all workers, and brings their news to each.

    Give the same URL and prefix to every worker: ``SocketGuard(…, store=RedisStore("redis://localhost:6379/0"))``.
    Needs the extra ``redis``.

    Args:
        redis: a URL (``redis://``, ``rediss://`` for TLS, ``unix://``, with user and password where needed), or an
            asynchronous client of redis-py or valkey-py, also one for a cluster or from a Sentinel.
        prefix: with which all keys begin, in braces; another for each application that shares the server.
        **options: for the client that is made of a URL, such as ``ssl_ca_certs``.

    Raises:
        ConfigurationError: an option is wrong, or redis-py is not installed; the text says so.
    """

    @called("RedisStore")
    def __init__(self, redis: Any, *, prefix: str = "socketguard", **options: Any) -> None:
        self._prefix = checked_prefix(prefix)
        self._client = client_of(redis, options, asynchronous=True)
        self._epoch: bytes | None = None
        self._fresh: bytes | None = None  # another epoch, which is not trusted yet
        self._mirror: OrderedDict[tuple[Any, Any, Any], Revocation] = OrderedDict()
        self._asked: list[tuple[Identity, asyncio.Future[bool]]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<RedisStore {self._prefix}>"

    def describe(self) -> dict[str, Any]:
        """What it is, for a log line; no secrets."""
        return {"kind": "redis", "prefix": self._prefix}

    # Revocations

    async def revoke(self, revocation: Revocation) -> str:
        """Keep a revocation, and tell all workers; see `Store.revoke`. Returns the position in the log."""
        return await self._revoke(revocation, tell=True)

    async def _revoke(self, revocation: Revocation, *, tell: bool) -> str:
        try:
            position = await self._call(revoke_call(self._prefix, revocation, tell=tell))
        except Exception as exc:
            raise_if_full(exc)
            raise
        self._mirror_of(revocation)
        return _text(position)

    def is_revoked(self, identity: Identity) -> Awaitable[bool]:
        """Tell whether a revocation covers an identity: one trip for all who are asked about in a turn of the loop."""
        loop = asyncio.get_running_loop()
        if not self._asked:
            loop.call_soon(self._flush)
        future: asyncio.Future[bool] = loop.create_future()
        self._asked.append((identity, future))
        return future

    def _flush(self) -> None:
        asked, self._asked = self._asked, []
        for start in range(0, len(asked), _TOGETHER):
            task = asyncio.get_running_loop().create_task(self._look_up(asked[start : start + _TOGETHER]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _look_up(self, asked: Sequence[tuple[Identity, asyncio.Future[bool]]]) -> None:
        keys = [self._key("epoch")]
        places: list[tuple[asyncio.Future[bool], Identity, int, int]] = []
        for identity, future in asked:
            found = self._keys_for(identity)
            places.append((future, identity, len(keys), len(found)))
            keys += found
        try:
            values = await self._client.mget(keys)
            self._check_epoch(values[0])
        except Exception as exc:
            for future, *_ in places:
                if not future.done():
                    future.set_exception(exc)
                    future.exception()  # whoever asked may wait no longer
            return
        for future, identity, start, count in places:
            if not future.done():
                future.set_result(any(_covers(value, identity) for value in values[start : start + count]))

    def _check_epoch(self, epoch: bytes | None) -> None:
        """An empty store knows of no revocation: nobody is let in before the workers have put back what they know."""
        if epoch is not None and self._epoch is None:
            self._epoch = epoch
        if epoch is None or epoch != self._epoch:
            raise StoreUnavailable("the state in Redis was lost; workers put back what they know")

    # Workers

    async def beat(self, worker: str, status: Mapping[str, Any], position: str | None) -> Beat:
        """Say that this worker lives, and ask for news; see `SharedStore.beat`."""
        keys = [self._key(name) for name in ("workers", "status", "epoch", "log")]
        said = json.dumps(dict(status), separators=(",", ":"))
        arguments = [worker, int(LEASE * 1000), said, position or "", secrets.token_hex(8), _NEWS]
        found = await self._call((_BEAT, keys, arguments))
        now, epoch, last, entries = float(found[0]) / 1000, found[1], _text(found[2]), found[3]
        news = [one for one in (_news(_text(place), _pairs(fields)) for place, fields in entries) if one is not None]
        for one in news:
            if one.revocation is not None:
                self._mirror_of(one.revocation)
        lost = await self._take_epoch(epoch, now)
        if position is not None and after(position, last):
            lost = True  # the log ends before what was known: it is another one
        if position is not None and entries:
            # Each names the one before it: what was cut off meanwhile shows.
            lost = lost or after(_text(_pairs(entries[0][1]).get("p", "0-0")), position)
            last = _text(entries[-1][0])  # where there are more than one beat brings, the rest comes with the next
        return Beat(now, last, news, statuses(found[4]), lost)

    async def _take_epoch(self, epoch: bytes, now: float) -> bool:
        """Put back what is known after the state was lost, and trust it with the beat after that."""
        if self._epoch is None:
            self._epoch = epoch
            return False
        if epoch == self._epoch:
            self._fresh = None
            return False
        if epoch == self._fresh:
            self._epoch, self._fresh = epoch, None
            return True
        for revocation in [each for each in self._mirror.values() if each.expires_at > now]:
            await self._revoke(revocation, tell=False)
        self._fresh = epoch
        return False

    async def send(self, worker: str, selector: Mapping[str, Any]) -> str:
        """Ask all workers to disconnect somebody; see `SharedStore.send`."""
        return _text(await self._call(send_call(self._prefix, selector, by=worker)))

    async def aclose(self) -> None:
        """Close the connections of the client."""
        close = getattr(self._client, "aclose", None) or self._client.close
        await close()

    # Keys

    def _key(self, name: str) -> str:
        return f"{self._prefix}:{name}"

    def _keys_for(self, identity: Identity) -> list[str]:
        issuers = (None,) if identity.issuer is None else (identity.issuer, None)
        keys = []
        for issuer in issuers:
            if identity.token_id is not None:
                keys.append(_key_of(self._prefix, issuer, identity.token_id, None))
            keys.append(_key_of(self._prefix, issuer, None, identity.subject))
        return keys

    def _mirror_of(self, revocation: Revocation) -> None:
        key = (revocation.issuer, revocation.token_id, revocation.subject)
        known = self._mirror.pop(key, None)
        self._mirror[key] = revocation if known is None else united(known, revocation)
        if len(self._mirror) > _MIRRORED:
            self._mirror.popitem(last=False)

    async def _call(self, call: Call) -> Any:
        script, keys, arguments = call
        # EVAL and not EVALSHA: the server keeps scripts by their text, and forgets them when it restarts.
        return await self._client.eval(script, len(keys), *keys, *arguments)


def _key_of(prefix: str, issuer: str | None, token_id: str | None, subject: str | None) -> str:
    digest = hashlib.sha256(json.dumps([issuer, token_id, subject]).encode()).hexdigest()[:32]
    return f"{prefix}:r:{digest}"


def after(one: str, other: str) -> bool:
    """Whether a position in the log is later than another."""
    return _position(one) > _position(other)


def _position(text: str) -> tuple[int, int]:
    milliseconds, _, number = text.partition("-")
    return int(milliseconds), int(number or 0)


def raise_if_full(error: Exception) -> None:
    """Say that Redis is full, where that is what an error means."""
    if "OOM" in str(error) or type(error).__name__ == "OutOfMemoryError":
        raise StoreFull("Redis has no memory for another revocation: raise its maxmemory") from error


def client_of(given: Any, options: Mapping[str, Any], *, asynchronous: bool) -> Any:
    """The option ``redis``: a client of redis-py for a URL, or one that is given."""
    if not isinstance(given, str):
        needed = ("eval", "mget") if asynchronous else ("eval",)
        if all(callable(getattr(given, name, None)) for name in needed) and not options:
            return given
        kind_of = "an asynchronous" if asynchronous else "a"
        raise ConfigurationError(
            f"redis is a {type(given).__name__}; write a URL such as 'redis://localhost:6379/0', or {kind_of} client "
            "of redis-py (options are for a URL only)",
            option="redis",
        )
    try:
        import redis
        import redis.asyncio
    except ImportError:
        raise ConfigurationError(
            "this needs redis-py: pip install 'socketguard[redis]', or give a client of your own", option="redis"
        ) from None
    kind: Any = redis.asyncio.Redis if asynchronous else redis.Redis
    try:
        return kind.from_url(given, **{"socket_timeout": 5, "socket_connect_timeout": 5, **options})
    except (ValueError, TypeError) as exc:
        # The text of a URL may hold a password.
        raise ConfigurationError(
            f"redis: the URL or an option of it can't be used ({type(exc).__name__}); write "
            "'redis://localhost:6379/0', 'rediss://…' for TLS or 'unix:///run/redis.sock'",
            option="redis",
        ) from None


def _entry(*, by: str = "", revocation: Revocation | None = None, selector: Mapping[str, Any] | None = None) -> str:
    said: dict[str, Any] = {"v": 1, "by": by}
    if revocation is not None:
        names = ("issuer", "token_id", "subject", "issued_before", "expires_at")
        said["revoke"] = [getattr(revocation, name) for name in names]
    else:
        said["disconnect"] = dict(selector or {})
    return json.dumps(said, separators=(",", ":"))


def _pairs(values: Sequence[Any]) -> dict[str, Any]:
    return {_text(values[i]): values[i + 1] for i in range(0, len(values), 2)}


def _news(position: str, fields: Mapping[str, Any]) -> News | None:
    """An entry of the log; None for what another version has written and nobody here understands."""
    try:
        said = json.loads(fields["e"])
        at = _position(position)[0] / 1000
        if "revoke" in said:
            return News(position, at, str(said["by"]), Revocation(*said["revoke"]))
        return News(position, at, str(said["by"]), None, dict(said["disconnect"]))
    except (KeyError, ValueError, TypeError, SocketGuardError):
        return None


def _status(text: Any) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _covers(value: Any, identity: Identity) -> bool:
    if value is None:
        return False
    text = _text(value)
    return text == "*" or identity.issued_at is None or identity.issued_at < float(text)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
