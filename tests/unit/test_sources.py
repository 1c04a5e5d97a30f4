from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import socketio

from socketguard import SocketGuard
from socketguard.diagnosis.startup import find_misspelt_options
from socketguard.server.attach import known_options
from socketguard.testing import make_auth


def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> ModuleType:
    path = tmp_path / "made_here.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location("made_here", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "made_here", module)
    spec.loader.exec_module(module)
    return module


def test_a_misspelt_option_is_found_where_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load(
        tmp_path,
        monkeypatch,
        "import socketio\n\nsio = socketio.AsyncServer(\n    async_mode='asgi', cors_allow_origins='*')\n",
    )
    found = SocketGuard.protect(module.sio, auth=make_auth(), logger=False).check()
    [finding] = [finding for finding in found if finding.id == "SG023"]
    assert "cors_allow_origins" in finding.text
    assert "made_here.py:3" in finding.text
    assert finding.fix == "write cors_allowed_origins="


def test_a_server_made_in_a_function_is_found_too() -> None:
    sio = socketio.AsyncServer(async_mode="asgi", no_such_thing_at_all_xyz=1)
    findings = find_misspelt_options(sio, known_options())
    assert [(finding.id, finding.fix) for finding in findings] == [("SG023", "remove it")]


def test_other_spellings_and_other_calls_are_let_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load(
        tmp_path,
        monkeypatch,
        "from socketio import AsyncServer\noptions = {'async_mode': 'asgi'}\n"
        "sio = AsyncServer(engineio_logger=False, **options)\ndict(anything=1)\n(lambda: 0)()\n",
    )
    findings = find_misspelt_options(module.sio, known_options())
    assert findings == []


def test_a_source_that_can_not_be_read_finds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load(tmp_path, monkeypatch, "import socketio\nsio = socketio.AsyncServer(async_mode='asgi', oops=1)\n")
    (tmp_path / "made_here.py").write_text("this is (not Python")
    findings = find_misspelt_options(module.sio, known_options())
    assert findings == []


def test_all_options_of_the_documentation_are_known() -> None:
    assert known_options() >= {
        "client_manager", "logger", "json", "async_handlers", "always_connect", "namespaces", "serializer",
        "async_mode", "ping_interval", "ping_timeout", "max_http_buffer_size", "allow_upgrades", "http_compression",
        "compression_threshold", "cookie", "cors_allowed_origins", "cors_credentials", "monitor_clients", "transports",
        "engineio_logger",
    }  # fmt: skip
