"""What to do about a request that does not become a session: which of several causes it was, and whose setting it is.

The cause and the proxy are told by the headers of the request itself, so that the line in the log can name the setting.
Nothing here decides anything: a client can write any header, and would only mislead the hint about itself. This module
is pure.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from socketguard.connection import HandshakeRequest
from socketguard.findings import Finding
from socketguard.proxies.settings import Setting, setting_for
from socketguard.proxies.traces import recognise
from socketguard.text import neutralise


class Hint(NamedTuple):
    """Which cause it was, a word of a closed set, and what to do, with nothing of the client but harmless text."""

    detail: str
    text: str


def _joined(request: HandshakeRequest, wanted: bytes) -> str:
    return ",".join(value.decode("latin-1") for name, value in request.headers if name == wanted).lower()


def _setting(setting: Setting, request: HandshakeRequest) -> str:
    return setting_for(setting, recognise(request.headers, request.http_version))


def upgrade_missing(request: HandshakeRequest) -> Hint:
    """A request with ``transport=websocket`` that is no WebSocket: who lost the upgrade."""
    upgrade = "websocket" in _joined(request, b"upgrade")
    connection = "upgrade" in _joined(request, b"connection")
    if upgrade and connection and request.http_version != "1.0":
        return Hint(
            "server_without_websocket",
            "the client asked for a WebSocket and its upgrade arrived, but the ASGI server did not take it: install "
            "WebSocket support (pip install 'uvicorn[standard]'), and don't start it with --ws none",
        )
    lost = "Connection: upgrade" if upgrade else "Upgrade"
    text = f"the client asked for a WebSocket, but no {lost} header arrived: a proxy in front drops it"
    if request.http_version == "1.0":
        text += " (the request came over HTTP/1.0, the default of nginx before 1.29.7)"
    detail = "connection_header_lost" if upgrade else "upgrade_header_lost"
    return Hint(detail, f"{text}; {_setting('websocket', request)}")


def transport_mismatch(request: HandshakeRequest) -> Hint:
    """A WebSocket whose query doesn't say ``transport=websocket``."""
    if request.transport_given:
        return Hint("transport_mismatch", "a WebSocket must carry transport=websocket in its query")
    return Hint(
        "transport_missing",
        "a WebSocket without a transport parameter comes from a plain WebSocket client; use a Socket.IO client (or, by "
        "hand, add ?EIO=4&transport=websocket to the URL)",
    )


def transport_unknown(request: HandshakeRequest) -> Hint:
    """A transport that is neither ``polling`` nor ``websocket``."""
    transport = request.transport
    text = "the transport parameter is 'polling' or 'websocket'"
    if transport == "webtransport":
        text += ": python-engineio has no WebTransport, take it out of the client's transports"
    else:
        near = difflib.get_close_matches(transport[:64].lower(), ("polling", "websocket"), n=1)
        text += f", not {neutralise(transport, 32)!r}" + (f"; did the client mean {near[0]!r}?" if near else "")
    return Hint("transport_unknown", text)


def protocol_version(request: HandshakeRequest) -> Hint:
    """A client that does not speak Engine.IO 4.

    Socket.IO documentation, "Client compatibility": clients of Socket.IO 1 send EIO=2 or 3, of Socket.IO 2 EIO=3, of 3
    and 4 EIO=4.
    """
    version = request.version
    if version in ("2", "3"):
        clients = "1" if version == "2" else "2"
        return Hint(
            f"engineio_{version}",
            f"the client speaks Engine.IO {version}, so it is one of Socket.IO {clients}; update it: socket.io-client "
            "3 or newer for JavaScript, 2 for Java, 16 for Swift, 2 for Dart (allowEIO3 exists for Node only)",
        )
    if version is None:
        return Hint(
            "engineio_missing",
            "there is no single EIO parameter: no Socket.IO client, a health check perhaps; Socket.IO clients send "
            "EIO=4",
        )
    return Hint(
        "engineio_unknown",
        f"the client speaks Engine.IO {neutralise(version, 16)}; use Socket.IO 3 or newer (EIO=4 in the query)",
    )


def session_unknown(request: HandshakeRequest, issued_here: bool | None, uptime_s: float) -> Hint:
    """A session id that this process, which began to serve so many seconds ago, does not know.

    ``issued_here`` is None where that can't be told from the id.
    """
    if issued_here:
        return Hint(
            "session_ended",
            "this process issued the session, which has ended since: the client was silent for longer than the "
            "heartbeat allows (a device that slept), or it was disconnected; it opens a new one by itself",
        )
    sticky = "with several workers the proxy needs sticky sessions, or clients transports: ['websocket']; "
    sticky += _setting("sticky", request)
    if issued_here is None:
        return Hint(
            "session_gone",
            "this process has no such session: it has ended, and the client opens a new one by itself, or another "
            f"worker has it; the application's own session ids don't tell which. If it goes on: {sticky}",
        )
    if uptime_s < 90:
        return Hint(
            "session_before_restart",
            f"this process never issued the session, and began to serve {uptime_s:.0f} s ago: most likely the session "
            "is from before the restart, and the client opens a new one by itself. If it goes on, another worker has "
            f"it ({sticky})",
        )
    return Hint("session_elsewhere", f"this process never issued the session: another worker or replica did; {sticky}")


def origin_refused(request: HandshakeRequest, allowed: str | Collection[str] | None) -> Hint:
    """A page whose origin may not connect: is it foreign, or has a proxy changed what it is compared with?

    ``allowed`` is None for same-origin only. The hint holds the argument to paste.
    """
    origin, host = request.origin or "", request.host
    listed = [] if allowed is None or isinstance(allowed, str) else list(allowed)
    argument = f"allowed_origins={[neutralise(one, 256) for one in [*listed, origin]]!r}"
    page_scheme, separator, page_host = origin.partition("://")
    if not separator:
        return Hint(
            "origin_opaque",
            "the page has no origin of its own (a file, a sandboxed frame or a redirect from another site); serve it "
            f"over http or https, or write SocketGuard(…, {argument})",
        )
    if page_scheme in ("ws", "wss"):
        return Hint(
            "origin_of_websocket",
            f"no page has the origin {neutralise(origin, 256)!r}: some WebSocket libraries of native clients write the "
            "address that they connect to; let the client send no Origin, or that of your pages, or write "
            f"SocketGuard(…, {argument})",
        )
    if allowed is not None:
        return _not_listed(origin, listed or [str(allowed)], argument)
    if page_host in (host, request.forwarded_host):
        return _scheme_lost(page_scheme, request, argument)
    shown = neutralise(host or "", 128)
    own_host = f"or write SocketGuard(…, {argument})"
    if host and _name(page_host) == _name(host):
        traces = request.proxied or request.forwarded_host or recognise(request.headers, request.http_version)
        if host != _name(host) and not traces:
            return Hint(
                "port_differs",
                f"the page is on {neutralise(page_host, 128)!r} and asked {shown!r}: on another port it is another "
                f"origin; if both are yours, write SocketGuard(…, {argument})",
            )
        return Hint(
            "port_lost",
            f"the page is on {neutralise(page_host, 128)!r}, but Host arrived as {shown!r}: on another port it is "
            f"another origin. If a proxy lost the port: {_setting('forward', request)}; {own_host}",
        )
    if host and request.forwarded_host is None:
        return Hint(
            "host_rewritten" if _is_internal(host) else "origin_foreign",
            f"Host arrived as {shown!r}, not as the page's own; if a proxy rewrote it, let it keep Host or send "
            f"X-Forwarded-Host ({_setting('forward', request)}); if this page is yours and on another host, write "
            f"SocketGuard(…, {argument})",
        )
    return Hint("origin_foreign", f"the page is from another origin; if it is yours, write SocketGuard(…, {argument})")


def _not_listed(origin: str, listed: Collection[str], argument: str) -> Hint:
    if any(one.replace("ws", "http", 1) == origin for one in listed if one.startswith(("ws://", "wss://"))):
        return Hint(
            "origin_listed_as_websocket",
            "allowed_origins lists this page as ws:// or wss://, as X-Forwarded-Proto has it behind Traefik; the "
            f"origin of a page is http:// or https://: write SocketGuard(…, {argument})",
        )
    near = [one for one in listed if _bare(one) == _bare(origin)]
    if near:
        return Hint(
            "origin_listed_differently",
            f"allowed_origins has {neutralise(near[0], 256)!r}, the page is on {neutralise(origin, 256)!r}: scheme, "
            f"name and port all have to be the same; write SocketGuard(…, {argument})",
        )
    return Hint(
        "origin_foreign",
        f"the page is from an origin that is not listed; if this page is yours, write SocketGuard(…, {argument})",
    )


def _scheme_lost(page_scheme: str, request: HandshakeRequest, argument: str) -> Hint:
    proto = _joined(request, b"x-forwarded-proto")
    scheme = neutralise(request.scheme, 16)
    begin = f"the page is on {neutralise(page_scheme, 16)}, but the request arrived as {scheme}"
    if proto.startswith(("ws", "wss")):
        return Hint(
            "scheme_differs",
            f"{begin} (X-Forwarded-Proto is {neutralise(proto, 32)!r}, as Traefik writes it for WebSockets): open the "
            f"page and its WebSocket over the same scheme, or write SocketGuard(…, {argument})",
        )
    if proto:
        return Hint(
            "scheme_differs",
            f"{begin}: TLS ends before the proxy that wrote X-Forwarded-Proto: {neutralise(proto, 32)}; let it believe "
            f"the one in front of it ({_setting('forward', request)}), or write SocketGuard(…, {argument})",
        )
    return Hint(
        "scheme_lost",
        f"{begin}: let the proxy send X-Forwarded-Proto ({_setting('forward', request)}), or write "
        f"SocketGuard(…, {argument})",
    )


def _name(host: str) -> str:
    """A host without its port."""
    name, _, port = host.rpartition(":")
    return name if port.isdigit() else host


def _bare(origin: str) -> str:
    """An origin without what people forget: scheme, port and www."""
    return _name(origin.partition("://")[2]).removeprefix("www.")


def _is_internal(host: str) -> bool:
    """A name that no page on the internet has: of one label, a private address, or in a domain that isn't public."""
    name = _name(host)
    try:
        return ipaddress.ip_address(name.strip("[]")).is_private
    except ValueError:
        return "." not in name or name.endswith((".local", ".internal", ".svc", ".localhost"))


def wrong_path(request: HandshakeRequest, paths: Sequence[str], lost: Mapping[str, Finding]) -> Hint:
    """A request of a Socket.IO client on another path than those of the endpoint.

    ``paths`` is empty where they aren't known; ``lost`` says which mounts no request reaches, by the paths that they
    seem to have.
    """
    path = request.path
    shown = neutralise(path, 128)
    for seeming, found in lost.items():
        if not paths or f"{path}/".startswith(seeming):
            return Hint("mount_lost", f"a Socket.IO client asked for {shown!r}, but {found.text} (SG021); {found.fix}")
    known = " or ".join(repr(one) for one in paths) or "unknown to the guard"
    text = f"a Socket.IO client asked for {shown!r}, the endpoint is {known}"
    asked = "/" + path.strip("/")
    for one in paths:
        own = "/" + one.strip("/")
        if "//" in path and "/" + re.sub("/+", "/", path).strip("/") == own:
            return Hint(
                "slash_doubled",
                f"{text}: a proxy doubles a slash (nginx: location and proxy_pass end with a slash, both or neither; "
                "proxy_pass without a path passes it on as it is), or it stands so in the client's path option",
            )
        if asked != own and (own.endswith(asked) or asked == "/"):
            prefix = own if asked == "/" else own.removesuffix(asked)
            return Hint(
                "prefix_stripped",
                f"{text}: a proxy took {prefix!r} away (nginx: no URI after the port in proxy_pass; Traefik: "
                f"no StripPrefix), or the client lacks it: io(URL, {{path: {one!r}}})",
            )
        if asked != own and asked.endswith(own) and own != "/":
            prefix = neutralise(asked.removesuffix(own), 128)
            if asked.removesuffix(own) == "/" + request.root_path.strip("/"):
                return Hint(
                    "root_path",
                    f"{text}: the application is mounted at {prefix!r}, or the ASGI server adds it (uvicorn "
                    "--root-path), and python-engineio compares the whole path: write "
                    f"ASGIApp(sio, socketio_path={prefix.lstrip('/') + own!r}), or start the server without it",
                )
            return Hint(
                "prefix_added",
                f"{text}: let the proxy take {prefix!r} away, serve the application under it (Mount, socketio_path), "
                f"or set the client's path option: io(URL, {{path: {one!r}}})",
            )
    return Hint("path_differs", f"{text}: set the client's path option to it: io(URL, {{path: …}})")
