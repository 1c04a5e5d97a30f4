"""The symptoms that the doctor knows: title, cause and fix of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["FORWARDING", "PAGE", "SYMPTOMS", "UNSEEN", "Symptom"]

PAGE = "docs/troubleshooting.md"
"""Where each symptom is explained, under its id."""


@dataclass(frozen=True, slots=True)
class Symptom:
    """What is the same in every finding of one kind."""

    title: str
    cause: str
    fix: str


_UPGRADE = "the proxy has to forward Upgrade and Connection over HTTP/1.1"

SYMPTOMS: Mapping[str, Symptom] = MappingProxyType(
    {
        "S-00": Symptom(
            "A check of the doctor itself failed",
            "a defect of the doctor, or an answer that nobody has foreseen",
            "report it with the evidence; the other findings stand",
        ),
        "S-01": Symptom(
            "Nothing answers in time",
            "the event loop is blocked, the proxy forwards to a wrong port, a firewall drops packets, or the "
            'application is still starting; clients see "timeout" after 20 s',
            "check the port to which the proxy forwards and that the application listens on 0.0.0.0; look for "
            "synchronous work in handlers",
        ),
        "S-02": Symptom(
            "The address can't be reached",
            "the name, the port or the certificate is wrong, or the server is down; clients see "
            '"xhr poll error" or "websocket error"',
            "mend the layer that the evidence names; browsers refuse what this doctor refuses",
        ),
        "S-03": Symptom(
            "Something else answers on the Socket.IO path",
            'a single-page application, a login page or a catch-all route takes the path; clients see "server error"',
            "route the path to the Socket.IO service, with a higher priority than the catch-all",
        ),
        "S-04": Symptom(
            "200 with an empty body: no route",
            "Caddy answers so when none of its routes matches",
            "add reverse_proxy /socket.io/* app:8000 to the site",
        ),
        "S-05": Symptom(
            "The upgrade to WebSocket gets lost",
            "a proxy drops the Upgrade or the Connection header, or the application server has no WebSocket support; "
            "clients stay on polling, and those with transports: ['websocket'] fail",
            f"{_UPGRADE}; for uvicorn, pip install 'uvicorn[standard]'",
        ),
        "S-06": Symptom(
            "WebSocket handshakes end in an error of the server",
            "most often the proxy forwards Upgrade but not Connection: upgrade, on which ASGI servers stumble",
            "nginx: proxy_set_header Connection $connection_upgrade, with the map of $http_upgrade; "
            "with nothing in front, pip install 'uvicorn[standard]': without a WebSocket library uvicorn answers so",
        ),
        "S-07": Symptom(
            "WebSocket is refused only with an Origin",
            "Traefik (Easypanel too) sends X-Forwarded-Proto: wss, and python-engineio compares the page's https:// "
            "with wss://; browsers stay on polling without any error",
            "put the server behind SocketGuard, which reads wss as https; or list the pages: "
            'cors_allowed_origins=["https://…"]; or let Traefik set '
            "headers.customrequestheaders.X-Forwarded-Proto=https",
        ),
        "S-08": Symptom(
            "The Origin is refused",
            "the page's origin is not on the server's list, or a proxy changed what the server compares it with: "
            "X-Forwarded-Proto is missing, Host is rewritten, or the proxy drops both because it does not trust the "
            "one before it",
            "let the proxy send Host and X-Forwarded-Proto as the browser sees them, and list other origins in "
            "allowed_origins (with python-socketio alone: cors_allowed_origins)",
        ),
        "S-09": Symptom(
            "No Socket.IO endpoint at this path",
            "the client's path, the server's socketio_path and what the proxy strips or adds don't agree",
            "make them agree; give this doctor the client's path with --path",
        ),
        "S-10": Symptom(
            "Traefik has no router for this address",
            "the rule of the router matches neither host nor path, or Traefik doesn't see the container",
            "check the labels traefik.http.routers.….rule and traefik.enable, the shared network and the port",
        ),
        "S-11": Symptom(
            "The proxy can't reach the application",
            "the application is down, unhealthy, or listens on another port or on 127.0.0.1 only",
            "check that it runs, listens on 0.0.0.0, and on the port to which the proxy forwards",
        ),
        "S-12": Symptom(
            "Requests of one session meet processes that don't know it",
            "several workers or replicas without sticky sessions: each process knows only its own sessions",
            "run one worker, or add a sticky cookie at the proxy, or let all clients use transports: ['websocket']",
        ),
        "S-13": Symptom(
            "Sessions hold only for clients that send cookies",
            "the proxy tells sessions apart by a cookie, which native clients and pages of other sites don't send",
            "let clients set withCredentials: true and the proxy SameSite=None and Secure on its cookie; "
            "or let clients use transports: ['websocket']",
        ),
        "S-14": Symptom(
            "Quiet WebSockets are cut",
            "an idle limit of a proxy is shorter than the interval between two pings",
            "raise the limit, or lower ping_interval: heartbeat=Heartbeat.for_idle_timeout(…)",
        ),
        "S-15": Symptom(
            "A waiting poll is cut",
            "a proxy allows less time for an answer than the interval between two pings",
            "raise the limit, lower ping_interval, or let clients use transports: ['websocket']",
        ),
        "S-16": Symptom(
            "The address redirects",
            "a WebSocket follows no redirect, and neither does a POST of polling",
            "give clients the address to which it leads",
        ),
        "S-17": Symptom(
            "A redirect takes the slash at the end away",
            "Next.js (trailingSlash: false) or another normaliser of paths stands in front",
            "addTrailingSlash: false at the client, or exempt the path from the normaliser",
        ),
        "S-18": Symptom(
            "A redirect adds a slash at the end",
            "the client asks without the slash that the route wants",
            "leave addTrailingSlash: false out at the client",
        ),
        "S-19": Symptom(
            "An https page can't use this address",
            "browsers block ws:// and http:// in pages that came over https, before any request is made",
            "give the page an https:// address",
        ),
        "S-20": Symptom(
            "A large request is refused",
            "a proxy limits bodies to less than the server takes (nginx: 1 MiB)",
            "raise client_max_body_size, or its like, together with max_http_buffer_size",
        ),
        "S-21": Symptom(
            "GET works, POST does not",
            "a firewall, a WAF or a rule for methods lets only GET pass",
            "allow GET, POST and OPTIONS on the path",
        ),
        "S-22": Symptom(
            "Browsers refuse the answers: CORS",
            "the CORS headers are missing, doubled, or contradict each other for this origin",
            "set CORS in one place only, the application or the proxy, with the page's origin instead of *",
        ),
        "S-23": Symptom(
            "Client and server speak different versions",
            "one side is Socket.IO 2 (Engine.IO 3), the other is newer",
            "update the older side; python-socketio 5 needs socket.io-client 3 or newer",
        ),
        "S-24": Symptom(
            "The WebSocket ends although nothing was wrong with it",
            "no ping came: the server is of Socket.IO 2, which waits for pings of the client",
            "update the server",
        ),
        "S-25": Symptom(
            "The server doesn't know the namespace",
            'io("https://host/api/") asks for the namespace /api/: the path of the URL is the namespace, the endpoint '
            "is the option path",
            'io("https://host/namespace", {path: "/socket.io"}), with the name as the server has it',
        ),
        "S-26": Symptom(
            "Joining a namespace gets no answer",
            "the connect handler, or what it waits for, hangs; no client has a timeout for it",
            "bound what the handler waits for; SocketGuard does it (admission_timeout)",
        ),
        "S-27": Symptom(
            "Something in front asks for a login",
            "basic authentication, a forward-auth middleware or an access product protects the path; a Socket.IO "
            "client can't log in there",
            "exempt the path, and let the Socket.IO token protect it",
        ),
        "S-28": Symptom(
            "426 Upgrade Required",
            "Envoy gets HTTP/1.0 from the proxy before it, or a WebSocket over HTTP/2 is not translated",
            "nginx in front: proxy_http_version 1.1; Envoy: upgrade_configs with websocket",
        ),
        "S-30": Symptom(
            "http and https are mixed up",
            "the port speaks the other of the two",
            "change the scheme of the URL, or the port",
        ),
        "S-33": Symptom(
            "The page was built with another address",
            "the address was put into the scripts when the page was built (NEXT_PUBLIC_…, VITE_…): a restart does not "
            "change it",
            "set the variable where the page is built, and build it again",
        ),
        "S-34": Symptom("The token is refused", "see the code of the refusal", "see the evidence"),
        "S-35": Symptom(
            "The certificate expires soon",
            "it is not renewed in time",
            "look at the renewal; clients fail from the moment at which it expires",
        ),
        "S-36": Symptom(
            "A token would travel in the clear",
            "the address is not https, so everybody on the way can read the token",
            "use https",
        ),
        "S-37": Symptom(
            "The server refuses new sessions for now",
            "it is restarting, can't reach its keys or its store, or has a limit that is used up",
            "try again; if it stays so, the server's log says why under socketguard.handshake.rejected",
        ),
        "S-38": Symptom(
            "The application refuses the session itself",
            "a hook before the handshake (allowRequest, an Engine.IO connect handler) says no",
            "look at that hook, and what it expects of the request",
        ),
    }
)
"""By id; the numbers up to S-32 are those of the documentation."""

UNSEEN: Mapping[str, str] = MappingProxyType(
    {
        "S-29": "WebSocket over HTTP/2 is offered but fails: the doctor speaks HTTP/1.1; if only browsers fail, offer "
        "http/1.1 alone by ALPN",
        "S-31": "all connections end at once at a reload or deploy: only the server's log shows it",
        "S-32": "messages appear only after a reload of the page: only the server's log shows it",
    }
)
"""What can't be seen from outside, and where to look."""

FORWARDING: Mapping[str, str] = MappingProxyType(
    {
        "nginx": "nginx: proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "
        "$connection_upgrade (with map $http_upgrade $connection_upgrade { default upgrade; '' close; })",
        "apache": "Apache 2.4.47 or newer: ProxyPass /socket.io/ http://app:8000/socket.io/ upgrade=websocket",
        "envoy": "Envoy: upgrade_configs: [{upgrade_type: websocket}]",
        "azure-front-door": "Azure Front Door: switch caching off on the route",
        "azure-app-service": "Azure App Service: switch Web sockets on in its settings",
    }
)
"""How each proxy is told to forward an upgrade."""
