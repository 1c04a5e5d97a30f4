"""What a server's own settings tell: the traps that are found at start. This module is pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from .errors import Finding

__all__ = ["ServerFacts", "check_server"]


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """The settings of a python-socketio server, read by the seam.

    Attributes:
        versions: of python-socketio and python-engineio.
        namespaces_text: the ``namespaces`` option when it was one string; None otherwise.
        catch_all_events: the events of a function-style ``namespace="*"``, when there are class-based namespaces too.
        class_namespaces: the names of class-based namespaces.
        admin_namespaces: where ``instrument()`` put its admin interface.
        packets_logged: whether ``engineio_logger`` prints each packet.
        bypassed: namespaces and events whose handlers run without the checks of ``requires``.
        write_only: whether the client manager only emits, and never hears of what other processes emit.
    """

    versions: dict[str, str]
    ping_interval: Any
    ping_timeout: Any
    ping_grace: Any
    transports: tuple[str, ...]
    cors_allowed_origins: Any
    cors_credentials: bool
    cookie: bool
    namespaces_text: str | None
    catch_all_events: tuple[str, ...]
    class_namespaces: tuple[str, ...]
    admin_namespaces: tuple[str, ...]
    packets_logged: bool
    write_only: bool = False
    bypassed: tuple[tuple[str, str], ...] = ()


# Published advisories, and the first releases without them.
_FIXED = {
    "python-socketio": ((5, 18, 1), "CVE-2025-61765, CVE-2026-48804"),
    "python-engineio": ((4, 15, 1), "CVE-2026-48802, CVE-2026-48809"),
}


def check_server(facts: ServerFacts, *, policies: Collection[str] | None) -> list[Finding]:
    """Look for the traps in a server's settings.

    Args:
        facts: the settings.
        policies: the names that are declared to the guard; None when it takes what is registered.
    """
    found = [*_origins(facts), *_namespaces(facts, policies), *_releases(facts)]
    found += [
        Finding(
            "SG017",
            f"the handler of {event!r} in {namespace!r} runs without what requires() asks for: it was registered "
            "before, and a decorator between the two hides it",
            "write @guard.requires(…) right below @sio.on(…), or functools.wraps into the decorator between them",
        )
        for namespace, event in facts.bypassed
    ]
    if facts.packets_logged:
        found.append(
            Finding(
                "SG041",
                "engineio_logger prints every packet, and with them the tokens and session ids of all clients",
                "leave engineio_logger out in production, or add socketguard.logs.RedactFilter() to its handlers",
            )
        )
    if facts.write_only:
        found.append(
            Finding(
                "SG044",
                "the client manager was made with write_only=True, but this server has clients: what other processes "
                "emit never reaches them",
                "leave write_only out here; it is for processes that only emit",
            )
        )
    return found


def _origins(facts: ServerFacts) -> list[Finding]:
    allowed = facts.cors_allowed_origins
    if allowed == []:
        return [
            Finding(
                "SG022",
                "cors_allowed_origins=[] switches the origin check of WebSockets off: any page may connect",
                'write SocketGuard(…, allowed_origins=["https://your-page.example"]) and leave '
                "cors_allowed_origins out",
            )
        ]
    if (allowed == "*" or (isinstance(allowed, list | tuple | set) and "*" in allowed)) and (
        facts.cookie or facts.cors_credentials
    ):
        return [
            Finding(
                "SG024",
                'every origin ("*") is allowed together with credentials: any page may connect with the cookies of '
                "its visitor and read the answers",
                "list the origins of your pages in allowed_origins, or make the server with cors_credentials=False "
                "and without a cookie",
            )
        ]
    return []


def _namespaces(facts: ServerFacts, policies: Collection[str] | None) -> list[Finding]:
    found = []
    if facts.namespaces_text is not None:
        found.append(
            Finding(
                "SG013",
                f"the server was made with namespaces={facts.namespaces_text!r}, one string, in which python-socketio "
                "looks for parts; the guard takes it for that one name",
                f"write namespaces=[{facts.namespaces_text!r}]",
            )
        )
    if facts.catch_all_events and facts.class_namespaces:
        found.append(
            Finding(
                "SG015",
                f'the handlers of namespace="*" ({", ".join(facts.catch_all_events)}) get those events before the '
                f"class-based namespaces {', '.join(facts.class_namespaces)} do",
                'register a class-based AsyncNamespace("*") instead of functions, or name the namespaces',
            )
        )
    outcome = "the guard asks for a token there too" if policies is None else "nobody can reach it"
    found.extend(
        Finding(
            "SG016",
            f"instrument() put its admin interface at {name!r}, with a login of its own; without a policy {outcome}",
            f'add NamespacePolicy({name!r}, token="none") to namespaces, and give instrument() a login',
        )
        for name in facts.admin_namespaces
        if policies is None or name not in policies
    )
    return found


def _releases(facts: ServerFacts) -> list[Finding]:
    found = []
    for package, (fixed, advisories) in _FIXED.items():
        installed = facts.versions[package]
        if _version(installed) < fixed:
            wanted = ".".join(map(str, fixed))
            found.append(
                Finding(
                    "SG040",
                    f"{package} {installed} has known weaknesses ({advisories}, and others fixed up to {wanted})",
                    f"pip install '{package}>={wanted}'",
                )
            )
    return found


def _version(text: str) -> tuple[int, ...]:
    parts = []
    for part in text.split(".")[:3]:
        digits = "".join(character for character in part if character.isdigit())
        parts.append(int(digits or 0))
    return tuple(parts)
