"""`Control`: revokes and disconnects from outside of the workers, without asyncio: a webhook, Celery, a person."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from .check import called
from .limits.revocation import revocation_for
from .limits.shared import Ended, confirmations, selector_of
from .redis import Call, checked_prefix, client_of, raise_if_full, revoke_call, send_call, statuses, workers_call

__all__ = ["Control"]

_CONFIRMED = 2.0  # seconds that workers have to confirm
_LOOK = 0.05  # seconds between two looks at whether they have


class Control:
    """Tells all workers that share a `socketguard.redis.RedisStore` whom to let in no more, or to disconnect.

    Use it as a context manager, or call `close`. Needs the extra ``redis``.

    Args:
        redis: the URL that the workers have, or a synchronous client of redis-py or valkey-py.
        prefix: as for `RedisStore`.
        **options: for the client that is made of a URL.

    Raises:
        ConfigurationError: an option is wrong; the text names it.
    """

    @called("Control")
    def __init__(self, redis: Any, *, prefix: str = "socketguard", **options: Any) -> None:
        self._prefix = checked_prefix(prefix)
        self._client = client_of(redis, options, asynchronous=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections of the client."""
        self._client.close()

    def revoke(
        self,
        *,
        token_id: str | None = None,
        subject: str | None = None,
        issued_before: float | None = None,
        issuer: str | None = None,
        expires_at: float | None = None,
        max_lifetime: float | None = None,
    ) -> Ended:
        """Refuse a token, or all older tokens of a subject, everywhere, and disconnect who is connected with one.

        Args:
            token_id: as for `SocketGuard.revoke`.
            subject: as for `SocketGuard.revoke`; needs ``max_lifetime``.
            issued_before: as for `SocketGuard.revoke`.
            issuer: whose tokens; None covers every issuer.
            expires_at: with ``token_id``: the ``exp`` of the token, in seconds since the epoch.
            max_lifetime: instead of it, and with ``subject``: the longest lifetime of the tokens, in seconds.

        Returns:
            How many connections were ended; ``.workers`` have answered, ``.missing`` have not within 2 s.

        Raises:
            ConfigurationError: the selector can't work; the text says why.
            StoreFull: Redis has no memory for it.
        """
        revocation = revocation_for(
            token_id=token_id,
            subject=subject,
            issued_before=issued_before,
            issuer=issuer,
            expires_at=expires_at,
            issuers=frozenset(),
            max_lifetime=max_lifetime,
            leeway=60.0,  # the most that a guard allows: which one it has is not known here
            now=time.time(),
            known_expiry=None,
        )
        try:
            position = self._call(revoke_call(self._prefix, revocation))
        except Exception as exc:
            raise_if_full(exc)
            raise
        return self._confirmed(position)

    def disconnect(
        self,
        *,
        subject: str | None = None,
        token_id: str | None = None,
        sid: str | None = None,
        issuer: str | None = None,
        namespace: str | None = None,
        reason: str | None = None,
    ) -> Ended:
        """Disconnect clients of all workers. They may connect again: see `revoke`.

        Args:
            subject: all of this subject's connections.
            token_id: those with this token id.
            sid: the one with this Socket.IO session id.
            issuer: with ``subject`` or ``token_id``: only those of this issuer.
            namespace: only those in this namespace.
            reason: what the clients are told.

        Returns:
            As `revoke`.

        Raises:
            ConfigurationError: not exactly one of ``subject``, ``token_id`` and ``sid`` is given.
        """
        chosen = selector_of(subject=subject, token_id=token_id, sid=sid)
        chosen |= {"issuer": issuer, "namespace": namespace, "told": reason}
        return self._confirmed(self._call(send_call(self._prefix, chosen)))

    def workers(self) -> dict[str, Mapping[str, Any]]:
        """What every living worker says of itself, by its id."""
        return statuses(self._call(workers_call(self._prefix)))

    def _call(self, call: Call) -> Any:
        script, keys, arguments = call
        return self._client.eval(script, len(keys), *keys, *arguments)

    def _confirmed(self, position: Any) -> Ended:
        place = position.decode() if isinstance(position, bytes) else str(position)
        end = time.monotonic() + _CONFIRMED
        while True:
            living = self.workers()
            known = confirmations(living, place)
            if len(known) == len(living) or time.monotonic() > end:
                return Ended(sum(known.values()), len(known), sorted(set(living) - set(known)))
            time.sleep(_LOOK)
