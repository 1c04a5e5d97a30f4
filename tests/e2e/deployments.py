"""Servers behind real proxies, deployed well and in each way that is known to break.

A proxy is one process with a port for each of its sites. In a site, ``<port>`` is that port, ``<upstream>`` the address
of the server behind it, ``<second>`` that of another replica, ``<closed>`` one where nothing listens, ``<silent>`` one
where nothing answers, and ``<folder>`` the place of the certificates.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.e2e.support import JS, PATIENCE, Server, free_port, running

__all__ = ["SITES", "Deployments", "Site"]


@dataclass(frozen=True, slots=True)
class Site:
    """What a proxy does on one of its ports."""

    proxy: str
    text: str  # its configuration
    scheme: str = "http"  # https where it ends TLS


# nginx

UPGRADE = "proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;"
HOST = "proxy_set_header Host $http_host;"
PROTO = "proxy_set_header X-Forwarded-Proto $scheme;"
FOR = "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;"
# As Traefik writes it: ws or wss on upgrades, http or https on everything else.
TRAEFIK_PROTO = "proxy_set_header X-Forwarded-Proto $traefik_proto;"
TRAEFIK_MORE = "proxy_set_header X-Forwarded-Server traefik; proxy_set_header X-Real-Ip $remote_addr;"


def location(*lines: str, path: str = "/socket.io/", target: str = "http://<upstream>") -> str:
    inside = "\n      ".join(("proxy_http_version 1.1;", FOR, *lines))
    return f"location {path} {{\n      proxy_pass {target};\n      {inside}\n    }}"


def nginx(*parts: str, certificate: str = "") -> Site:
    tls = f"ssl_certificate <folder>/{certificate}.pem; ssl_certificate_key <folder>/{certificate}.key;"
    lines = (f"listen 127.0.0.1:<port>{' ssl' if certificate else ''};", tls if certificate else "", *parts)
    text = "  server {\n    " + "\n    ".join(filter(None, lines)) + "\n  }"
    return Site("nginx", text, "https" if certificate else "http")


GOOD = (UPGRADE, HOST, PROTO, "proxy_read_timeout 120s; proxy_send_timeout 120s; client_max_body_size 2m;")
PAGE = "<!doctype html><script src=/app.js></script>"

_NGINX = {
    "nginx": nginx(location(*GOOD)),
    "nginx: TLS": nginx(location(*GOOD), certificate="good"),
    "nginx: sticky by address": nginx(location(*GOOD, target="http://sticky_<port>")),
    "nginx: as Traefik": nginx(location(UPGRADE, HOST, TRAEFIK_PROTO, TRAEFIK_MORE)),
    "nginx: as Traefik with TLS": nginx(location(UPGRADE, HOST, TRAEFIK_PROTO, TRAEFIK_MORE), certificate="good"),
    "nginx: no Upgrade": nginx(location(HOST, PROTO)),
    "nginx: no Connection": nginx(location("proxy_set_header Upgrade $http_upgrade;", HOST, PROTO)),
    "nginx: HTTP/1.0": nginx(location(HOST, PROTO, "proxy_http_version 1.0;").replace("proxy_http_version 1.1;", "")),
    "nginx: Host rewritten": nginx(location(UPGRADE, PROTO)),
    "nginx: port lost": nginx(location(UPGRADE, "proxy_set_header Host $host;", PROTO)),
    "nginx: scheme lost": nginx(location(UPGRADE, HOST), certificate="good"),
    "nginx: prefix stripped": nginx(location(*GOOD, target="http://<upstream>/")),
    "nginx: prefix added": nginx(location(*GOOD, target="http://<upstream>/api/socket.io/")),
    "nginx: other path": nginx(location(*GOOD, path="/api/socket.io/", target="http://<upstream>/socket.io/")),
    "nginx: catch-all": nginx("location / { default_type text/html; return 200 '<!doctype html><title>CRM</title>'; }"),
    "nginx: down": nginx(location(*GOOD, target="http://<closed>")),
    "nginx: hangs": nginx(location(UPGRADE, HOST, PROTO, "proxy_read_timeout 1s;", target="http://<silent>")),
    "nginx: idle limit": nginx(location(UPGRADE, HOST, PROTO, "proxy_read_timeout 3s;")),
    "nginx: idle limit of 12 s": nginx(location(UPGRADE, HOST, PROTO, "proxy_read_timeout 12s;")),
    "nginx: to https": nginx("return 301 https://$http_host$request_uri;"),
    "nginx: slash dropped": nginx("location /socket.io/ { return 308 /socket.io$is_args$args; }"),
    "nginx: small bodies": nginx(location(UPGRADE, HOST, PROTO, "client_max_body_size 1k;")),
    "nginx: GET only": nginx(location(*GOOD, "limit_except GET { deny all; }")),
    "nginx: CORS doubled": nginx(location(*GOOD, "add_header Access-Control-Allow-Origin $http_origin always;")),
    "nginx: as Engine.IO 3": nginx(location(*GOOD, "set $args EIO=3&transport=$arg_transport;")),
    "nginx: basic auth": nginx(location(*GOOD, 'auth_basic "staff"; auth_basic_user_file <folder>/htpasswd;')),
    "nginx: login page": nginx("location / { return 302 /login?next=$request_uri; }"),
    "nginx: self-signed": nginx(location(*GOOD), certificate="self-signed"),
    "nginx: expired": nginx(location(*GOOD), certificate="expired"),
    "nginx: expires soon": nginx(location(*GOOD), certificate="soon"),
    "nginx: other name": nginx(location(*GOOD), certificate="other"),
    "nginx: page built elsewhere": nginx(
        location(*GOOD),
        f"location = / {{ default_type text/html; return 200 '{PAGE}'; }}",
        """location = /app.js { default_type text/javascript; return 200 'io("http://<closed>/messages")'; }""",
    ),
    "nginx: two replicas": nginx(location(*GOOD, target="http://spread_<port>")),
    "nginx: one of two is dead": nginx(location(*GOOD, "proxy_next_upstream off;", target="http://dead_<port>")),
    "nginx: extensions hidden": nginx(location(*GOOD, "proxy_hide_header Sec-WebSocket-Extensions;")),
    "nginx: query lost": nginx(location(*GOOD, "rewrite ^/socket.io/ /socket.io/? break;")),
    "nginx: cached": nginx(
        location(
            *(*GOOD, "proxy_cache all; proxy_cache_key $host$uri; proxy_cache_valid 200 1m;"),
            "proxy_ignore_headers Cache-Control Set-Cookie Vary;",
        )
    ),
    "nginx: slashes doubled": nginx(location(*GOOD, path="/socket.io", target="http://<upstream>/")),
    "nginx: CORS of another page": nginx(
        location(
            *(*GOOD, "proxy_hide_header Access-Control-Allow-Origin;"),
            "add_header Access-Control-Allow-Origin https://other.example.com always;",
        )
    ),
    "nginx: errors as pages": nginx(
        location(
            *(*GOOD, "proxy_intercept_errors on; error_page 404 =200 /index.html;"),
            target="http://<upstream>/api/socket.io/",
        ),
        "location = /index.html { default_type text/html; return 200 '<!doctype html><title>CRM</title>'; }",
    ),
    "nginx: Origin taken away": nginx(location(*GOOD, 'proxy_set_header Origin "";')),
    "nginx: WebSockets only": nginx(location(*GOOD, "if ($http_upgrade = '') { return 404; }")),
    "nginx: to www": nginx("return 301 http://www.example.com$request_uri;"),
    "nginx: maintenance": nginx("location / { default_type text/html; return 503 '<h1>Back soon</h1>'; }"),
}
_UPSTREAMS = {
    "sticky_<port>": "upstream sticky_<port> { hash $remote_addr consistent; server <upstream>; server <second>; }\n",
    "spread_<port>": "upstream spread_<port> { server <upstream>; server <second>; }\n",
    "dead_<port>": "upstream dead_<port> { server <upstream> max_fails=0; server <closed> max_fails=0; }\n",
}
_NGINX_FRAME = """
daemon off; error_log stderr; pid <folder>/nginx.pid; worker_processes 1;
<user>
events { worker_connections 512; }
http {
  access_log off;
  client_body_temp_path <folder>/body; proxy_temp_path <folder>/proxy;
  fastcgi_temp_path <folder>/fastcgi; uwsgi_temp_path <folder>/uwsgi; scgi_temp_path <folder>/scgi;
  proxy_cache_path <folder>/cache keys_zone=all:1m;
  map $http_upgrade $connection_upgrade { default upgrade; '' close; }
  map $scheme:$http_upgrade $traefik_proto { default wss; 'https:' https; 'http:' http; ~^http: ws; }
<sites>
}
"""

# HAProxy


def haproxy(*lines: str) -> Site:
    return Site("haproxy", "\n  ".join(("listen <port>", "bind 127.0.0.1:<port>", *lines)))


FORWARD = "option forwardfor", "http-request set-header X-Forwarded-Proto https if { ssl_fc }"
BEHIND = (*FORWARD, "server a <upstream>")
REPLICAS = "server a <upstream> cookie a", "server b <second> cookie b"
OLD_OPEN = '{\\"sid\\":\\"bm90IGEgc2Vzc2lvbg\\",\\"upgrades\\":[],\\"pingInterval\\":25000,\\"pingTimeout\\":5000}'


def answers(status: int, kind: str, text: str, *more: str) -> Site:
    """A proxy that can't be had here, by its answer."""
    returned = f'http-request return status {status} content-type "{kind}" string "{text}"'
    return haproxy(" ".join((returned, *more)))


_HAPROXY = {
    "haproxy": haproxy(*BEHIND),
    "haproxy: two replicas": haproxy(*FORWARD, "balance roundrobin", *REPLICAS),
    "haproxy: spread by chance": haproxy(*FORWARD, "balance random(1)", *REPLICAS),
    "haproxy: sticky by cookie": haproxy(
        *FORWARD, "balance roundrobin", "cookie SRV insert indirect nocache", *REPLICAS
    ),
    "haproxy: no Upgrade": haproxy("http-request del-header Upgrade", *BEHIND),
    "haproxy: Host rewritten": haproxy("http-request set-header Host app.internal", *BEHIND),
    "haproxy: prefix stripped": haproxy("http-request replace-path /socket.io(/.*) \\1", *BEHIND),
    "haproxy: down": haproxy("retries 0", *FORWARD, "server a <closed>"),
    "haproxy: hangs": haproxy("timeout server 1s", *FORWARD, "server a <silent>"),
    "haproxy: idle limit": haproxy("timeout tunnel 3s", *BEHIND),
    "haproxy: first byte in 3 s": haproxy("timeout server 3s", "timeout tunnel 1h", *BEHIND),
    "haproxy: no POST": haproxy("http-request deny deny_status 405 if METH_POST", *BEHIND),
    "haproxy: small bodies": haproxy(
        "http-request deny deny_status 413 if { req.hdr_val(content-length) gt 1024 }", *BEHIND
    ),
    "haproxy: no OPTIONS": haproxy("http-request deny deny_status 405 if METH_OPTIONS", *BEHIND),
    "haproxy: basic auth": haproxy("http-request auth realm staff", *BEHIND),
    "haproxy: one of two is dead": haproxy(
        "retries 0", *FORWARD, "balance roundrobin", "server a <upstream>", "server b <closed>"
    ),
    "haproxy: extensions hidden": haproxy("http-response del-header Sec-WebSocket-Extensions", *BEHIND),
    "haproxy: query replaced": haproxy("http-request set-query utm=1", *BEHIND),
    "haproxy: no WebSockets": haproxy(
        "http-request return status 503 content-type text/plain string busy if { hdr(upgrade) -i websocket }", *BEHIND
    ),
    "haproxy: rate limit": haproxy(
        "stick-table type ip size 1k expire 60s store http_req_rate(60s)",
        "http-request track-sc0 src",
        "http-request deny deny_status 429 if { sc_http_req_rate(0) gt 3 }",
        *BEHIND,
    ),
    "haproxy: browsers only": haproxy("http-request deny unless { hdr_sub(user-agent) Mozilla/5.0 }", *BEHIND),
    "haproxy: WebSockets denied": haproxy("http-request deny if { hdr(upgrade) -m found }", *BEHIND),
    "haproxy: WebSockets elsewhere": haproxy(
        *FORWARD, "use-server b if { hdr(upgrade) -i websocket }", "server a <upstream>", "server b <second> weight 0"
    ),
    "haproxy: CORS doubled": haproxy('http-response add-header Access-Control-Allow-Origin "*"', *BEHIND),
    "traefik: no router": answers(404, "text/plain; charset=utf-8", "404 page not found\\n"),
    "traefik: no server": answers(503, "text/plain; charset=utf-8", "no available server\\n"),
    "traefik: bad gateway": answers(502, "text/plain; charset=utf-8", "Bad Gateway"),
    "envoy: HTTP/1.0": answers(426, "text/plain", "Upgrade Required", "hdr server istio-envoy"),
    "alb: no target": answers(
        503, "text/html", "<h1>503 Service Temporarily Unavailable</h1>", "hdr server awselb/2.0"
    ),
    "server of Socket.IO 2": answers(200, "text/plain; charset=UTF-8", f"87:0{OLD_OPEN}2:40"),
}
_HAPROXY_FRAME = """
global
  maxconn 512
userlist staff
  user somebody insecure-password else
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout tunnel 1h
  timeout client-fin 30s
<sites>
"""

# Caddy


def caddy(*lines: str) -> Site:
    return Site("caddy", "\n  ".join(("http://:<port> {", "bind 127.0.0.1", *lines)) + "\n}")


TO = "reverse_proxy /socket.io/* <upstream>"

_CADDY = {
    "caddy": caddy(TO),
    "caddy: no Upgrade": caddy(f"{TO} {{", "header_up -Upgrade", "}"),
    "caddy: Host rewritten": caddy(f"{TO} {{", "header_up Host <upstream>", "header_up -X-Forwarded-Host", "}"),
    "caddy: no wildcard": caddy("reverse_proxy /socket.io <upstream>"),
    "caddy: no route": caddy("reverse_proxy /other/* <upstream>"),
    "caddy: prefix stripped": caddy("handle_path /socket.io/* {", "reverse_proxy <upstream>", "}"),
    "caddy: catch-all": caddy("header Content-Type text/html", "respond `<!doctype html><title>CRM</title>`"),
    "caddy: down": caddy("reverse_proxy /socket.io/* <closed>"),
    "caddy: small bodies": caddy("request_body {", "max_size 1KB", "}", TO),
    "caddy: first byte in 3 s": caddy(f"{TO} {{", "transport http {", "response_header_timeout 3s", "}", "}"),
    "caddy: sticky by cookie": caddy(f"{TO} <second> {{", "lb_policy cookie sio_lb", "}"),
    "caddy: two replicas": caddy(f"{TO} <second> {{", "lb_policy round_robin", "}"),
    "caddy: one of two is dead": caddy(f"{TO} <closed> {{", "lb_policy round_robin", "}"),
    "caddy: WebSockets elsewhere": caddy("@ws header Upgrade websocket", "reverse_proxy @ws <closed>", TO),
}
_CADDY_FRAME = """
{
  admin off
  auto_https off
  grace_period 1s
}
<sites>
"""

# Apache


def apache(*lines: str) -> Site:
    inside = "\n  ".join(lines)
    return Site("apache", f"Listen 127.0.0.1:<port>\n<VirtualHost 127.0.0.1:<port>>\n  {inside}\n</VirtualHost>")


KEEP = "ProxyPreserveHost On", "RequestHeader set X-Forwarded-Proto expr=%{REQUEST_SCHEME}"
PASS = "ProxyPass /socket.io/ http://<upstream>/socket.io/ upgrade=websocket"

_APACHE = {
    "apache": apache(*KEEP, "Timeout 120", "ProxyTimeout 120", PASS),
    "apache: wstunnel": apache(
        *KEEP,
        "RewriteEngine On",
        "RewriteCond %{HTTP:Upgrade} websocket [NC]",
        "RewriteRule ^/socket.io/(.*) ws://<upstream>/socket.io/$1 [P,L]",
        "ProxyPass /socket.io/ http://<upstream>/socket.io/",
    ),
    "apache: no Upgrade": apache(*KEEP, "ProxyPass /socket.io/ http://<upstream>/socket.io/"),
    "apache: Host rewritten": apache("RequestHeader set X-Forwarded-Proto expr=%{REQUEST_SCHEME}", PASS),
    "apache: Host rewritten, nothing forwarded": apache("ProxyAddHeaders Off", PASS),
    "apache: prefix added": apache(*KEEP, "ProxyPass /socket.io/ http://<upstream>/api/socket.io/ upgrade=websocket"),
    "apache: not routed": apache(*KEEP, "ProxyPass /ws/ http://<upstream>/socket.io/ upgrade=websocket"),
    "apache: down": apache(*KEEP, "ProxyPass /socket.io/ http://<closed>/socket.io/ upgrade=websocket"),
    "apache: idle limit": apache(*KEEP, "Timeout 3", "ProxyTimeout 3", PASS),
    "apache: GET only": apache(
        *KEEP, "<Location />", "<LimitExcept GET>", "Require all denied", "</LimitExcept>", "</Location>", PASS
    ),
    "apache: CORS doubled": apache(*KEEP, "Header always add Access-Control-Allow-Origin *", PASS),
}
_APACHE_MODULES = (
    "mpm_event authn_core authz_core authz_host headers proxy proxy_http proxy_wstunnel rewrite reqtimeout filter"
)
_APACHE_FRAME = (
    "\n".join(f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so" for name in _APACHE_MODULES.split())
    + """
ServerName localhost
ServerRoot <folder>
DefaultRuntimeDir <folder>
PidFile <folder>/apache.pid
ErrorLog /dev/stderr
ServerLimit 2
ThreadsPerChild 64
MaxRequestWorkers 128
StartServers 1
<user>
<sites>
"""
)

SITES: Mapping[str, Site] = MappingProxyType({**_NGINX, **_HAPROXY, **_CADDY, **_APACHE})
"""By name: the proxy, and what is wrong with it."""

_FRAMES = {"nginx": _NGINX_FRAME, "haproxy": _HAPROXY_FRAME, "caddy": _CADDY_FRAME, "apache": _APACHE_FRAME}
_USERS = {"nginx": "user root;", "apache": "User nobody\nGroup nogroup"}
_COMMANDS = {
    "nginx": ["nginx", "-e", "stderr", "-p", "<folder>", "-c", "<config>"],
    "haproxy": ["haproxy", "-db", "-f", "<config>"],
    "caddy": ["caddy", "run", "--adapter", "caddyfile", "--config", "<config>"],
    "apache": ["apache2", "-D", "FOREGROUND", "-f", "<config>"],
}

# The servers behind them

_QUICK = {"interval": 5, "timeout": 10}
_REPLICA = {"guarded": True, "interval": 2, "timeout": 8, "options": {"admission_timeout": 3}}
_UVICORN: Mapping[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    **{name: ({}, ()) for name in ("plain", "replica")},
    "quick": (_QUICK, ()),
    "without WebSocket": ({}, ("--ws", "none")),
    "guarded, TLS": ({"guarded": True}, ("--ssl-certfile", "<folder>/good.pem", "--ssl-keyfile", "<folder>/good.key")),
    "guarded, no proxy trusted": ({"guarded": True, "options": {"trusted_proxies": []}}, ()),
    "guarded, proxy headers": ({"guarded": True, "options": {"trusted_proxies": []}}, ("--proxy-headers",)),
    "quick, fixed age": ({**_QUICK, "age": 4}, ()),
    "root path": ({}, ("--root-path", "/api")),
    "msgpack": ({"serializer": "msgpack"}, ()),
    "guarded, msgpack": ({"guarded": True, "serializer": "msgpack"}, ()),
    "TLS": ({}, ("--ssl-certfile", "<folder>/good.pem", "--ssl-keyfile", "<folder>/good.key")),
    **{name: ({"guarded": True}, ()) for name in ("guarded", "draining", "guarded, cut", "guarded, crowded")},
    "guarded, quick": ({"guarded": True, **_QUICK, "options": {"admission_timeout": 4}}, ()),
    "guarded, impatient": ({"guarded": True, "options": {"connect_timeout": 4}}, ()),
    "guarded, without WebSocket": ({"guarded": True}, ("--ws", "none")),
    **{f"guarded replica {number}": (_REPLICA, ()) for number in (1, 2)},
}
_NODE: Mapping[str, dict[str, Any]] = {
    "node": {},
    "node, slow": {"pingInterval": 75_000},
    "node, any origin": {"cors": {"origin": "*", "credentials": True}},
    "node, other origin": {"cors": {"origin": "https://crm.example.com", "credentials": True}},
    "node, other origin, replica": {"cors": {"origin": "https://crm.example.com", "credentials": True}},
    "node, forbidden": {"forbidden": True},
    "node, polling only": {"transports": ["polling"]},
}
_SECOND = {
    "plain": "replica",
    "guarded replica 1": "guarded replica 2",
    "node, other origin": "node, other origin, replica",
}


class Deployments:
    """Servers behind proxies, until the block ends; ``wanted`` are pairs of a site, or ``direct``, and a server."""

    def __init__(self, folder: Path, wanted: Iterable[tuple[str, str]]) -> None:
        self.folder = folder
        self._wanted = list(dict.fromkeys(wanted))
        self._ports: dict[tuple[str, str], int] = {}
        self._node: dict[str, int] = {}
        self._silent = self._closed = 0
        self._servers: dict[str, Server] = {}
        self._proxies: dict[str, Any] = {}
        self._stack = contextlib.ExitStack()
        self.authority = folder / "authority.pem"
        """The certificate of the authority that signed those of the sites."""

    @classmethod
    @contextlib.contextmanager
    def stand(cls, new_folder: Callable[[], Path], wanted: Iterable[tuple[str, str]]) -> Iterator[Deployments]:
        """The deployments; once more when somebody else has taken one of so many ports before its proxy did."""
        pairs = list(wanted)
        with contextlib.ExitStack() as stack:
            try:
                found = stack.enter_context(cls(new_folder(), pairs))
            except AssertionError:
                found = stack.enter_context(cls(new_folder(), pairs))
            yield found

    def url(self, site: str, server: str) -> str:
        """Where a deployment is."""
        if site == "direct":
            return self._servers[server].url if server in self._servers else f"http://127.0.0.1:{self._port(server)}"
        return f"{SITES[site].scheme}://127.0.0.1:{self._ports[site, server]}"

    def server(self, name: str) -> Server:
        """The server of this name, which is one of uvicorn's."""
        return self._servers[name]

    def end_proxy(self, name: str) -> None:
        """End a proxy as a crash does."""
        os.killpg(self._proxies[name].pid, signal.SIGKILL)

    def __enter__(self) -> Deployments:
        with self._stack:
            make_certificates(self.folder)
            names = dict.fromkeys(server for _, server in self._wanted)
            names |= {_SECOND[name]: None for name in names if name in _SECOND}
            with ThreadPoolExecutor(4) as pool:
                self._stack.callback(self._stop)
                for name, server in pool.map(self._serve, [name for name in names if name in _UVICORN]):
                    self._servers[name] = server
            wanted_node = {name: _NODE[name] for name in names if name in _NODE}
            if wanted_node:
                self._start_node(wanted_node)
            silent, closed = (self._stack.enter_context(socket.socket()) for _ in range(2))
            for taken in (silent, closed):
                taken.bind(("127.0.0.1", 0))
            silent.listen(64)  # the other is only bound: nobody else gets it
            self._silent, self._closed = silent.getsockname()[1], closed.getsockname()[1]
            for proxy in _FRAMES:
                self._start_proxy(proxy)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _stop(self) -> None:
        with ThreadPoolExecutor(len(self._servers) or 1) as pool:
            list(pool.map(Server.stop, self._servers.values()))

    def _serve(self, name: str) -> tuple[str, Server]:
        settings, arguments = _UVICORN[name]
        arguments = tuple(argument.replace("<folder>", str(self.folder)) for argument in arguments)
        arguments = (*arguments, "--timeout-graceful-shutdown", "2")
        server = Server(self.folder, settings, arguments=arguments, app="tests.e2e.deployed:app")
        # uvicorn's for what python-engineio answers to a WebSocket that it does not take.
        server.prints_tracebacks = not settings.get("guarded")
        if name == "draining":
            server.post("/control/drain")
        return name, server

    def _start_node(self, wanted: Mapping[str, Any]) -> None:
        command = ["node", "server.mjs", json.dumps(dict(wanted))]
        process = subprocess.Popen(command, cwd=JS, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        self._stack.callback(process.stdout.close)
        self._stack.callback(process.wait, PATIENCE)
        self._stack.callback(process.stdin.close)  # then the process ends
        self._node = json.loads(process.stdout.readline())

    def _port(self, server: str) -> int:
        if server == "nothing":
            return self._closed
        if server == "silence":
            return self._silent
        return self._node[server] if server in self._node else self._servers[server].port

    def _start_proxy(self, proxy: str) -> None:
        pairs = [(site, server) for site, server in self._wanted if site != "direct" and SITES[site].proxy == proxy]
        if not pairs:
            return
        sites = [self._site(*pair) for pair in pairs]
        folder = self.folder / proxy
        folder.mkdir()
        user = _USERS.get(proxy, "") if os.geteuid() == 0 else ""
        text = _FRAMES[proxy].replace("<sites>", "\n".join(sites)).replace("<user>", user)
        config = folder / "proxy.conf"
        config.write_text(text.replace("<folder>", str(folder)))
        command = [part.replace("<folder>", str(folder)).replace("<config>", str(config)) for part in _COMMANDS[proxy]]
        environment = {**os.environ, "HOME": str(folder), "PATH": os.environ["PATH"] + os.pathsep + "/usr/sbin"}
        last = self._ports[pairs[-1]]
        log = folder / "proxy.log"
        options = {"env": environment, "start_new_session": True}
        process = self._proxies[proxy] = self._stack.enter_context(running(command, log, last, **options))
        # Apache waits for ten seconds for children that still have connections.
        self._stack.callback(os.killpg, process.pid, signal.SIGKILL)

    def _site(self, site: str, server: str) -> str:
        port = self._ports[site, server] = free_port()
        text = SITES[site].text
        text = "".join(upstream for name, upstream in _UPSTREAMS.items() if name in text) + text
        ports = {"upstream": self._port(server), "second": self._port(_SECOND.get(server, server))}
        ports |= {"closed": self._closed, "silent": self._silent}
        places = {name: f"127.0.0.1:{value}" for name, value in ports.items()}
        for place, value in {**places, "port": str(port), "folder": str(self.folder)}.items():
            text = text.replace(f"<{place}>", value)
        return text


def make_certificates(folder: Path) -> None:
    """Make an authority and the certificates of the sites, and a file of passwords."""
    (folder / "htpasswd").write_text("somebody:{PLAIN}else\n")
    authority = _certificate(folder, "authority")
    _certificate(folder, "good", authority)
    _certificate(folder, "soon", authority, days=3)
    _certificate(folder, "expired", authority, days=-1)
    _certificate(folder, "other", authority, address="127.0.0.2")
    _certificate(folder, "self-signed")


def _certificate(
    folder: Path, name: str, authority: Any = None, days: int = 90, address: str = "127.0.0.1"
) -> ec.EllipticCurvePrivateKey:
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    subject, issuer = (x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)]) for text in (name, "authority"))
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer if authority else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=30))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=authority is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .sign(authority or key, hashes.SHA256())
    )
    (folder / f"{name}.pem").write_bytes(built.public_bytes(serialization.Encoding.PEM))
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / f"{name}.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, *private))
    return key
