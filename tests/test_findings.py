"""The table of configuration warnings: complete, fit for people, and given the values that its templates ask for."""

from __future__ import annotations

import ast
import re
import string
from collections.abc import Iterator
from pathlib import Path

import pytest

import socketguard
from socketguard.findings import ERROR, KINDS, WARNING, Finding, Kind, finding

PACKAGE = Path(socketguard.__file__).parent
ROOT = Path(__file__).parents[1]


def calls() -> Iterator[ast.Call]:
    """Each ``finding("SG…", …)`` in the sources."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = node.args[0] if isinstance(node, ast.Call) and node.args else None
            if isinstance(name, ast.Constant) and re.fullmatch(r"SG\d{3}", str(name.value)) and _is_finding(node):
                yield node


def _is_finding(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "finding"


def fields(kind: Kind, case: str = "") -> set[str]:
    text, fix = kind.cases[case] if case else (kind.text, kind.fix)
    return {name for part in (text, fix or kind.fix) for _, name, _, _ in string.Formatter().parse(part) if name}


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_it_holds_what_the_package_can_say_and_nothing_else() -> None:
    assert set(KINDS) == {ast.literal_eval(call.args[0]) for call in calls()}
    assert list(KINDS) == sorted(KINDS)
    assert [kind.id for kind in KINDS.values()] == list(KINDS)


@pytest.mark.parametrize("call", [pytest.param(call, id=ast.unparse(call)[:60]) for call in calls()])
def test_each_place_gives_the_values_of_its_templates(call: ast.Call) -> None:
    kind = KINDS[ast.literal_eval(call.args[0])]
    given = {str(keyword.arg) for keyword in call.keywords}
    # The case is written there, or chosen among those that the kind has.
    cases = [getattr(each, "value", None) for each in ast.walk(call.args[1])] if len(call.args) > 1 else [""]
    named = [case for case in cases if case == "" or case in kind.cases] or list(kind.cases)
    for case in named:
        assert fields(kind, str(case)) <= given
    assert given <= set().union(*(fields(kind, str(case)) for case in named))


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_a_kind_is_for_people(kind: Kind) -> None:
    assert kind.severity in (ERROR, WARNING)
    assert len(kind.title) <= 80
    assert not kind.title.endswith(".")
    assert kind.why.endswith(".")
    assert len(kind.advice) > 15
    assert kind.title != kind.why != kind.advice
    for text, fix in [(kind.text or "of its cases", kind.fix), *kind.cases.values()]:
        assert len(text) > 10
        assert len(fix or kind.fix) > 3


@pytest.mark.parametrize("docs", sorted({kind.docs for kind in KINDS.values()}))
def test_the_pages_are_there(docs: str) -> None:
    path, _, anchor = docs.partition("#")
    page = ROOT / path
    assert page.is_file()
    assert not anchor or anchor in anchors(page)


def test_nobody_can_change_it() -> None:
    with pytest.raises(TypeError):
        KINDS["SG001"] = KINDS["SG002"]  # type: ignore[index]


def test_a_finding_is_a_value_with_the_texts_of_its_kind() -> None:
    found = finding("SG012", name="chat{0}")
    assert found == Finding(
        "SG012",
        "handlers are registered for namespace='chat{0}', which has no leading slash: no client can reach them",
        'write namespace="/chat{0}" where the handlers are registered',
    )
    assert len({found, finding("SG012", name="chat{0}")}) == 1
    assert found.kind.severity == ERROR
    assert finding("SG051").kind.severity == WARNING


def test_a_case_has_its_own_text_and_perhaps_its_own_fix() -> None:
    assert finding("SG031").fix == "leave debug out wherever others reach the server"
    assert finding("SG031", "served", host="::").text.startswith("debug=True on '::': ")
    assert finding("SG008", "zero", ping_timeout=0, timeout=20).fix.startswith("ws_ping_timeout=20 or higher")


def test_the_advice_has_names_where_a_finding_has_values() -> None:
    assert KINDS["SG012"].advice == 'write namespace="/{name}" where the handlers are registered'
    assert 'claims={"tenant_id": "{tenant}"}' in KINDS["SG014"].advice
    assert KINDS["SG005"].advice == "Write whole seconds above zero, such as Heartbeat(25, 20)."
