"""The symptoms that the doctor knows: title, cause and fix of each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["FORWARDING", "PAGE", "SYMPTOMS", "UNSEEN", "Symptom"]

PAGE = "docs/troubleshooting.md"
"""Where each symptom is explained, under its id."""


@dataclass(frozen=True, slots=True)
class Symptom:
    """What is the same in every finding of one kind."""

    title: str
    cause: str
    fix: str


def _read(table: str) -> Mapping[str, Symptom]:
    """The rows of a table: an id with its title, and below them, indented, cause and fix."""
    rows = [re.split(" (?:cause|fix): ", " ".join(row.split())) for row in re.split(r"\n(?=S-)", table.strip())]
    return {head[:4]: Symptom(head[5:], cause, fix) for head, cause, fix in rows}


SYMPTOMS: Mapping[str, Symptom] = _read("""
S-00 A check of the doctor itself failed
  cause: a defect of the doctor, or an answer that nobody has foreseen
  fix: report it with the evidence; the other findings stand
S-01 Nothing answers in time
  cause: the event loop is blocked, the proxy forwards to a wrong port, a firewall drops packets, or the application
    is still starting; clients see "timeout" after 20 s
  fix: check the port to which the proxy forwards and that the application listens on 0.0.0.0; look for synchronous
    work in handlers
S-02 The address can't be reached
  cause: the name, the port or the certificate is wrong, or the server is down; clients see "xhr poll error" or
    "websocket error"
  fix: repair what the evidence names; browsers refuse what this doctor refuses
S-03 Something else answers on the Socket.IO path
  cause: a single-page application, a login page or a catch-all route takes the path; clients see "server error"
  fix: route the path to the Socket.IO service, with a higher priority than the catch-all
S-04 200 with an empty body: no route
  cause: Caddy answers so when none of its routes matches
  fix: add reverse_proxy /socket.io/* app:8000 to the site
S-05 The upgrade to WebSocket gets lost
  cause: a proxy drops the Upgrade or the Connection header, or the application server has no WebSocket support;
    clients stay on polling, and those with transports: ['websocket'] fail
  fix: the proxy has to forward Upgrade and Connection over HTTP/1.1; for uvicorn, pip install 'uvicorn[standard]'
S-06 WebSocket handshakes end in an error of the server
  cause: most often the proxy forwards Upgrade but not Connection: upgrade, on which ASGI servers stumble
  fix: nginx: proxy_set_header Connection $connection_upgrade, with the map of $http_upgrade; with nothing in front,
    pip install 'uvicorn[standard]': without a WebSocket library uvicorn answers so
S-07 WebSocket is refused only with an Origin
  cause: Traefik (Easypanel too) sends X-Forwarded-Proto: wss, and python-engineio compares the page's https:// with
    wss://; browsers stay on polling without any error
  fix: put the server behind SocketGuard, which reads wss as https; or list the pages:
    cors_allowed_origins=["https://…"]; or let Traefik set headers.customrequestheaders.X-Forwarded-Proto=https
S-08 The Origin is refused
  cause: the page's origin is not on the server's list, or a proxy changed what the server compares it with:
    X-Forwarded-Proto is missing, Host is rewritten, or the proxy drops both because it does not trust the one before
    it
  fix: let the proxy send Host and X-Forwarded-Proto as the browser sees them, and list other origins in
    allowed_origins (with python-socketio alone: cors_allowed_origins)
S-09 No Socket.IO endpoint at this path
  cause: the client's path, the server's socketio_path and what the proxy strips or adds don't agree
  fix: make them agree; give this doctor the client's path with --path
S-10 Traefik has no router for this address
  cause: the rule of the router matches neither host nor path, or Traefik doesn't see the container
  fix: check the labels traefik.http.routers.….rule and traefik.enable, the shared network and the port
S-11 The proxy can't reach the application
  cause: the application is down, unhealthy, or listens on another port or on 127.0.0.1 only
  fix: check that it runs, listens on 0.0.0.0, and on the port to which the proxy forwards
S-12 Requests of one session meet processes that don't know it
  cause: several workers or replicas without sticky sessions: each process knows only its own sessions
  fix: run one worker, or add a sticky cookie at the proxy, or let all clients use transports: ['websocket']
S-13 Sessions hold only for clients that send cookies
  cause: the proxy tells sessions apart by a cookie, which native clients and pages of other sites don't send
  fix: let clients set withCredentials: true and the proxy SameSite=None and Secure on its cookie; or let clients use
    transports: ['websocket']
S-14 Quiet WebSockets are cut
  cause: an idle limit of a proxy is shorter than the interval between two pings
  fix: raise the limit, or lower ping_interval: heartbeat=Heartbeat.for_idle_timeout(…)
S-15 A waiting poll is cut
  cause: a proxy allows less time for an answer than the interval between two pings
  fix: raise the limit, lower ping_interval, or let clients use transports: ['websocket']
S-16 The address redirects
  cause: a WebSocket follows no redirect, and neither does a POST of polling
  fix: give clients the address to which it leads
S-17 A redirect takes the slash at the end away
  cause: Next.js (trailingSlash: false) or another normaliser of paths stands in front
  fix: addTrailingSlash: false at the client, or exempt the path from the normaliser
S-18 A redirect adds a slash at the end
  cause: the client asks without the slash that the route wants
  fix: leave addTrailingSlash: false out at the client
S-19 An https page can't use this address
  cause: browsers block ws:// and http:// in pages that came over https, before any request is made
  fix: give the page an https:// address
S-20 A large request is refused
  cause: a proxy limits bodies to less than the server takes (nginx: 1 MiB)
  fix: raise client_max_body_size, or its like, together with max_http_buffer_size
S-21 GET works, POST does not
  cause: a firewall, a WAF or a rule for methods lets only GET pass
  fix: allow GET, POST and OPTIONS on the path
S-22 Browsers refuse the answers: CORS
  cause: the CORS headers are missing, doubled, or contradict each other for this origin
  fix: set CORS in one place only, the application or the proxy, with the page's origin instead of *
S-23 Client and server speak different versions
  cause: one side is Socket.IO 2 (Engine.IO 3), the other is newer
  fix: update the older side; python-socketio 5 needs socket.io-client 3 or newer
S-24 The WebSocket ends although nothing was wrong with it
  cause: no ping came: the server is of Socket.IO 2, which waits for pings of the client
  fix: update the server
S-25 The server doesn't know the namespace
  cause: io("https://host/api/") asks for the namespace /api/: the path of the URL is the namespace, the endpoint is
    the option path
  fix: io("https://host/namespace", {path: "/socket.io"}), with the name as the server has it
S-26 Joining a namespace gets no answer
  cause: several are possible: the connect handler, or what it waits for, hangs; it raised an exception, after which
    python-socketio answers nothing; or client and server use different parsers (msgpack on one side)
  fix: look at the server's log for the moment of this check; bound what the handler waits for (SocketGuard does it,
    admission_timeout, and answers when a handler raises)
S-27 Something in front asks for a login
  cause: basic authentication, a forward-auth middleware or an access product protects the path; a Socket.IO client
    can't log in there
  fix: exempt the path, and let the Socket.IO token protect it
S-28 426 Upgrade Required
  cause: Envoy gets HTTP/1.0 from the proxy before it, or a WebSocket over HTTP/2 is not translated
  fix: nginx in front: proxy_http_version 1.1; Envoy: upgrade_configs with websocket
S-30 http and https are mixed up
  cause: the port speaks the other of the two
  fix: change the scheme of the URL, or the port
S-33 The page was built with another address
  cause: the address was put into the scripts when the page was built (NEXT_PUBLIC_…, VITE_…): a restart does not
    change it
  fix: set the variable where the page is built, and build it again
S-34 The token is refused
  cause: see the code of the refusal
  fix: see the evidence
S-35 The certificate expires soon
  cause: it is not renewed in time
  fix: look at the renewal; clients fail from the moment at which it expires
S-36 A token would travel in the clear
  cause: the address is not https, so everybody on the way can read the token
  fix: use https
S-37 The server refuses new sessions for now
  cause: it is restarting, can't reach its keys or its store, or has a limit that is used up
  fix: try again; if it stays so, the server's log says why under socketguard.handshake.rejected
S-38 The application refuses the session itself
  cause: a hook before the handshake (allowRequest, an Engine.IO connect handler) says no
  fix: look at that hook, and what it expects of the request
S-39 Some requests fail, and others don't
  cause: one of several servers behind the proxy is dead or just starting; or a server or a proxy is restarted now
  fix: ask each server of the proxy by itself, and take the dead one out (a health check does that by itself)
S-40 WebSockets fail for browsers, which compress
  cause: something in front breaks permessage-deflate: it takes the header Sec-WebSocket-Extensions out of one
    direction only, or changes frames
  fix: let it pass the header in both directions or in none; or switch compression off at the server (uvicorn
    --ws-per-message-deflate false)
S-41 The query string is lost on the way
  cause: a proxy or a rewrite forwards the path without what follows the question mark, so that the server sees neither
    EIO nor transport
  fix: "nginx: no $uri or variable in proxy_pass without $is_args$args; a rewrite: keep the query"
S-42 The handshake is cached
  cause: a cache in front answers two clients with one session, so that one reads what is meant for the other
  fix: take the path out of the cache; the server says Cache-Control: no-store behind SocketGuard
""")
"""By id; the numbers up to S-32 are those of the documentation."""

UNSEEN: Mapping[str, str] = {
    "S-29": "WebSocket over HTTP/2 is offered but fails: the doctor speaks HTTP/1.1; if only browsers fail, offer "
    "http/1.1 alone by ALPN",
    "S-31": "all connections end at once at a reload or deploy: only the server's log shows it",
    "S-32": "messages appear only after a reload of the page: only the server's log shows it",
}
"""What can't be seen from outside, and where to look."""

FORWARDING: Mapping[str, str] = {
    "nginx": "nginx: proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "
    "$connection_upgrade (with map $http_upgrade $connection_upgrade { default upgrade; '' close; })",
    "apache": "Apache 2.4.47 or newer: ProxyPass /socket.io/ http://app:8000/socket.io/ upgrade=websocket",
    "envoy": "Envoy: upgrade_configs: [{upgrade_type: websocket}]",
    "azure-front-door": "Azure Front Door: switch caching off on the route",
    "azure-app-service": "Azure App Service: switch Web sockets on in its settings",
}
"""How each proxy is told to forward an upgrade."""
