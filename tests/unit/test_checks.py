from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from socketguard.diagnosis.startup import ServerFacts, check_server

PLAIN = ServerFacts(
    versions={"python-socketio": "5.18.1", "python-engineio": "4.15.1"},
    ping_interval=25,
    ping_timeout=20,
    ping_grace=0,
    transports=("polling", "websocket"),
    cors_allowed_origins=None,
    cors_credentials=True,
    cookie=False,
    namespaces_text=None,
    catch_all_events=(),
    class_namespaces=(),
    admin_namespaces=(),
    packets_logged=False,
)


def ids(*, policies: Any = None, **changes: Any) -> list[str]:
    return [finding.id for finding in check_server(replace(PLAIN, **changes), policies=policies)]


def test_a_plain_server_has_nothing_to_say() -> None:
    assert ids() == []
    assert ids(policies=["/messages"]) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"cors_allowed_origins": []}, ["SG022"]),
        ({"cors_allowed_origins": "*"}, ["SG024"]),
        ({"cors_allowed_origins": ["*"]}, ["SG024"]),
        ({"cors_allowed_origins": ("https://a", "*")}, ["SG024"]),
        ({"cors_allowed_origins": "*", "cors_credentials": False}, []),
        ({"cors_allowed_origins": "*", "cors_credentials": False, "cookie": True}, ["SG024"]),
        ({"cors_allowed_origins": ["https://a"]}, []),
        ({"cors_allowed_origins": "https://a"}, []),
        ({"cors_allowed_origins": lambda origin: True}, []),
        ({"namespaces_text": "/chat"}, ["SG013"]),
        ({"catch_all_events": ("message",)}, []),
        ({"class_namespaces": ("/a",)}, []),
        ({"catch_all_events": ("message",), "class_namespaces": ("/a",)}, ["SG015"]),
        ({"admin_namespaces": ("/admin",)}, ["SG016"]),
        ({"bypassed": (("/a", "save"), ("*", "save"))}, ["SG017", "SG017"]),
        ({"packets_logged": True}, ["SG041"]),
    ],
)
def test_traps(changes: dict[str, Any], expected: list[str]) -> None:
    assert ids(**changes) == expected


def test_the_admin_namespace_needs_a_policy() -> None:
    assert ids(admin_namespaces=("/admin",), policies=["/admin"]) == []
    assert ids(admin_namespaces=("/admin",), policies=["/messages"]) == ["SG016"]
    (asked,) = check_server(replace(PLAIN, admin_namespaces=("/admin",)), policies=None)
    (lost,) = check_server(replace(PLAIN, admin_namespaces=("/admin",)), policies=[])
    assert "asks for a token" in asked.text
    assert "nobody can reach it" in lost.text
    assert "NamespacePolicy('/admin', token=\"none\")" in asked.fix


@pytest.mark.parametrize(
    ("versions", "packages"),
    [
        (("5.18.1", "4.15.1"), []),
        (("5.19.0", "5.0.0"), []),
        (("5.18.1.post1", "4.15.10"), []),
        (("5.18.0", "4.15.1"), ["python-socketio"]),
        (("5.9.3", "4.11.0"), ["python-socketio", "python-engineio"]),
        (("5.18", "4.15.1rc1"), ["python-socketio"]),
        (("unknown", "4.15.1"), ["python-socketio"]),
    ],
)
def test_releases_with_published_weaknesses(versions: tuple[str, str], packages: list[str]) -> None:
    facts = replace(PLAIN, versions=dict(zip(("python-socketio", "python-engineio"), versions, strict=True)))
    found = check_server(facts, policies=None)
    assert [finding.id for finding in found] == ["SG040"] * len(packages)
    for finding, package in zip(found, packages, strict=True):
        assert finding.text.startswith(f"{package} {facts.versions[package]} ")
        assert "CVE-" in finding.text
        assert f"pip install '{package}>=" in finding.fix


def test_every_finding_says_what_and_how() -> None:
    facts = replace(
        PLAIN,
        versions={"python-socketio": "5.0.0", "python-engineio": "4.0.0"},
        cors_allowed_origins=[],
        namespaces_text="/chat",
        catch_all_events=("message",),
        class_namespaces=("/a",),
        admin_namespaces=("/admin",),
        packets_logged=True,
    )
    for finding in check_server(facts, policies=None):
        assert finding.id.startswith("SG0")
        assert len(finding.text) > 20
        assert len(finding.fix) > 10


def test_a_manager_that_only_emits_is_nothing_for_a_server_with_clients() -> None:
    (finding,) = check_server(replace(PLAIN, write_only=True), policies=None)
    assert finding.id == "SG044"
    assert "write_only" in finding.fix
