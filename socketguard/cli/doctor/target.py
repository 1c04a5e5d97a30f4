"""The address that is examined, read as a Socket.IO client reads it."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from socketguard.check import is_loopback
from socketguard.errors import ConfigurationError

__all__ = ["DEFAULT_PATH", "Target", "parse_target", "same_origin_url", "web_origin"]

DEFAULT_PATH = "/socket.io"
_HTTP = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Target:
    """A Socket.IO endpoint."""

    scheme: str  # http or https; ws and wss are those too
    host: str  # without brackets
    port: int
    path: str = DEFAULT_PATH  # of the Engine.IO endpoint, without the slash at its end
    namespace: str = "/"  # the path of the URL: so a Socket.IO client reads it
    query: tuple[tuple[str, str], ...] = ()  # further parameters, which a client sends with each request
    notes: tuple[str, ...] = ()  # what the URL makes a person stumble over
    slash: bool = True  # whether requests end the path with a slash, as clients do by default

    @property
    def endpoint(self) -> str:
        """The path as it is requested."""
        return f"{self.path}/" if self.slash else self.path

    @property
    def tls(self) -> bool:
        """Whether TLS is spoken."""
        return self.scheme == "https"

    @property
    def authority(self) -> str:
        """Host and port, as in a URL and in the ``Host`` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """The origin of a page that lives at the same address."""
        return f"{self.scheme}://{self.authority}"

    @property
    def shown(self) -> str:
        """The endpoint for people: without the query, in which there may be secrets."""
        return f"{self.origin}{self.endpoint}"

    @property
    def loopback(self) -> bool:
        """Whether the host is this machine, by its name."""
        return _is_local(self.host)

    def url(self, transport: str, *, sid: str | None = None, websocket: bool = False) -> str:
        """The URL of a request over ``polling`` or ``websocket``; ``websocket=True`` makes it begin with ws or wss."""
        scheme = self.scheme.replace("http", "ws") if websocket else self.scheme
        query = [*self.query, ("EIO", "4"), ("transport", transport)]
        if sid is not None:
            query.append(("sid", sid))
        return f"{scheme}://{self.authority}{self.endpoint}?{urlencode(query)}"


def parse_target(url: str, *, path: str | None = None, slash: bool = True) -> Target:
    """Read the URL that somebody would give to ``io()``, with the client's options ``path`` and ``addTrailingSlash``.

    Without a scheme it is ``https``, and ``http`` on loopback.
    """
    parts, notes = _split(url.strip(), "URL")
    namespace = parts.path or "/"
    if namespace.rstrip("/").endswith("/socket.io"):
        # Pasted from the network panel of a browser: there it is the endpoint, not a namespace.
        if path is None:
            path = namespace
        namespace = "/"
        option = "" if path.strip("/") == "socket.io" else f', {{path: "{path}"}}'
        call = f'io("{_HTTP[parts.scheme]}://{parts.netloc}"{option})'
        notes.append(f"the URL names the Engine.IO endpoint; in a client write {call}")
    elif namespace != "/":
        where = "where the endpoint lies is said by --path (in JavaScript: the option path)"
        notes.append(f"the path of the URL is the namespace {namespace!r} for a Socket.IO client; {where}")
    endpoint = "/" + (DEFAULT_PATH if path is None else path).strip("/")
    if "?" in endpoint or "#" in endpoint or any(character.isspace() for character in endpoint):
        text = "--path is only the path of the endpoint, such as /socket.io or /api/socket.io"
        raise ConfigurationError(text, option="--path")
    query = tuple(pair for pair in parse_qsl(parts.query) if pair[0] not in ("EIO", "transport", "sid", "t"))
    scheme = _HTTP[parts.scheme]
    port = parts.port or _PORTS[scheme]
    return Target(scheme, parts.hostname or "", port, endpoint, namespace, query, tuple(notes), slash)


def web_origin(url: str, *, option: str) -> str:
    """The origin of a URL, as a browser sends it; ``option`` is what an error names."""
    parts, _ = _split(url.strip(), option)
    scheme = _HTTP[parts.scheme]
    return Target(scheme, parts.hostname or "", parts.port or _PORTS[scheme]).origin


def same_origin_url(url: str, origin: str) -> bool:
    """Whether a URL belongs to an origin, where ``ws`` counts as ``http``. What is no URL belongs to none."""
    try:
        return web_origin(url, option="URL") == origin
    except ConfigurationError:
        return False


def _split(url: str, option: str) -> tuple[SplitResult, list[str]]:
    notes: list[str] = []
    wanted = "write it as a client does, such as https://crm.example.com"
    if "://" not in url:
        local = _splits(f"//{url}") and _is_local(urlsplit(f"//{url}").hostname or "")
        url = f"{'http' if local else 'https'}://{url}"
        notes.append(f"the URL has no scheme; {url.partition(':')[0]} was taken")
    if not _splits(url):
        raise ConfigurationError(f"{option} can't be read; {wanted}", option=option)
    parts = urlsplit(url)
    if parts.scheme not in _HTTP:
        raise ConfigurationError(f"{option} has an unknown scheme; {wanted}", option=option)
    if not parts.hostname or any(character.isspace() for character in url):
        raise ConfigurationError(f"{option} has no host, or a space in it; {wanted}", option=option)
    if parts.username is not None or parts.password is not None:
        text = f"{option} holds a user name or password, which would end in logs; leave it out, {wanted}"
        raise ConfigurationError(text, option=option)
    return parts, notes


def _splits(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.port is None or parts.port > 0
    except ValueError:
        return False


def _is_local(host: str) -> bool:
    return host.endswith(".localhost") or is_loopback(host)  # RFC 6761 section 6.3
