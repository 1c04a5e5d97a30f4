"""A login that hands out tokens of a few seconds, and publishes its keys: what an identity provider is to the tests."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from socketguard.testing import mint
from tests.e2e.support import free_port, wait_until


class Listener:
    """An HTTP server on a port of this machine that can go away and come back."""

    def __init__(self, answer: Callable[[str], tuple[str, str]]) -> None:
        self._handler = functools.partial(_Handler, answer)
        self._server: ThreadingHTTPServer | None = None
        self.port = free_port()
        self.open()

    def open(self) -> None:
        """Answer again."""
        self._server = wait_until(self._bound, f"port {self.port} is taken")
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def _bound(self) -> ThreadingHTTPServer | None:
        with contextlib.suppress(OSError):
            return ThreadingHTTPServer(("127.0.0.1", self.port), self._handler)
        return None

    def close(self) -> None:
        """From now on connections are refused."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, answer: Callable[[str], tuple[str, str]], *args: Any) -> None:
        self._answer = answer
        super().__init__(*args)

    def do_GET(self) -> None:
        kind, text = self._answer(self.path)
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        return None


class Issuer:
    """Hands out tokens that `make_auth` takes, over HTTP; they live for up to a second less than ``lifetime``."""

    def __init__(self, lifetime: int = 4) -> None:
        self.lifetime = lifetime
        self.asked: list[str] = []
        """Whose tokens were asked for, each time."""
        self._numbers = itertools.count(1)
        self._kept: dict[str, tuple[float, str]] = {}
        self._lock = threading.Lock()
        self._listener = Listener(self._hand_out)

    def url(self, subject: str, *, shared: bool = False) -> str:
        """Where a client gets its tokens.

        A shared one is handed out again as long as it lives for more than a second, as pages do that keep one for all
        their namespaces.
        """
        return f"http://127.0.0.1:{self._listener.port}/{subject}" + ("?shared=1" if shared else "")

    def mint(self, subject: str) -> str:
        """A fresh token."""
        return mint(subject, lifetime=self.lifetime, tenant_id="acme", jti=f"t-{next(self._numbers)}")

    def _hand_out(self, path: str) -> tuple[str, str]:
        parts = urlsplit(path)
        subject = parts.path[1:]
        self.asked.append(subject)
        if "shared" not in parse_qs(parts.query):
            return "text/plain", self.mint(subject)
        with self._lock:
            end, token = self._kept.get(subject, (0.0, ""))
            now = time.time()
            if end - now < 1:
                token, end = self.mint(subject), int(now) + self.lifetime
                self._kept[subject] = end, token
            return "text/plain", token

    def close(self) -> None:
        """Stop."""
        self._listener.close()


class KeyIssuer(Issuer):
    """The same with RS256, a key that rotates, and a key server of its own that may be down."""

    NAME = "https://login.example.com/"
    AUDIENCE = "crm"

    def __init__(self, lifetime: int = 4) -> None:
        self._key_numbers = itertools.count(1)
        self.fetches = 0
        """How often the keys were fetched."""
        self.rotate()
        self._keys = Listener(self._publish)
        super().__init__(lifetime)

    @property
    def jwks_url(self) -> str:
        """Where the keys are."""
        return f"http://127.0.0.1:{self._keys.port}/jwks"

    def options(self, **changes: Any) -> dict[str, Any]:
        """For `JWTAuth`."""
        options = {
            "jwks_url": self.jwks_url,
            "issuer": self.NAME,
            "audience": self.AUDIENCE,
            "algorithms": ["RS256"],
            "allow_http": True,
            "leeway": 0,
            "jwks_timeout": 60,
        }
        return {**options, **changes}

    def rotate(self) -> str:
        """Sign with a new key from now on, and publish only that. Returns its id."""
        key = rsa.generate_private_key(65537, 2048)
        self._signing = f"key-{next(self._key_numbers)}", key
        return self._signing[0]

    def mint(self, subject: str) -> str:
        key_id, key = self._signing
        return mint(
            subject,
            key=key,
            algorithm="RS256",
            headers={"kid": key_id},
            lifetime=self.lifetime,
            iss=self.NAME,
            aud=self.AUDIENCE,
            tenant_id="acme",
        )

    def keys_down(self) -> None:
        """From now on nothing listens where the keys were."""
        self._keys.close()

    def keys_up(self) -> None:
        """The key server is back."""
        self._keys.open()

    def _publish(self, path: str) -> tuple[str, str]:
        self.fetches += 1
        key_id, key = self._signing
        published = {**RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": key_id, "use": "sig"}
        return "application/json", json.dumps({"keys": [published]})

    def close(self) -> None:
        """Stop."""
        super().close()
        self._keys.close()
