"""Each warning that the package can emit is explained, and nothing else is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import socketguard
from socketguard.diagnosis.catalogue import CATALOGUE, ERROR, WARNING, Entry, severity

PACKAGE = Path(socketguard.__file__).parent
ROOT = Path(__file__).parents[2]


def emitted() -> set[str]:
    """The ids in the sources, as the first argument of a finding or in a table of findings."""
    sources = (path for path in PACKAGE.rglob("*.py") if path.name != "catalogue.py")
    return {id_ for path in sources for id_ in re.findall(r'"(SG\d{3})"', path.read_text(encoding="utf-8"))}


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_it_holds_what_the_package_emits_and_nothing_else() -> None:
    assert set(CATALOGUE) == emitted()


def test_the_entries_stand_in_their_order_under_their_own_ids() -> None:
    assert list(CATALOGUE) == sorted(CATALOGUE)
    assert [entry.id for entry in CATALOGUE.values()] == list(CATALOGUE)


@pytest.mark.parametrize("entry", CATALOGUE.values(), ids=list(CATALOGUE))
def test_an_entry_is_for_people(entry: Entry) -> None:
    assert entry.severity in (ERROR, WARNING)
    assert len(entry.title) <= 80
    assert not entry.title.endswith(".")
    assert entry.why.endswith(".")
    assert len(entry.fix) > 15
    assert entry.title != entry.why != entry.fix


@pytest.mark.parametrize("docs", sorted({entry.docs for entry in CATALOGUE.values()}))
def test_the_pages_are_there(docs: str) -> None:
    path, _, anchor = docs.partition("#")
    page = ROOT / path
    assert page.is_file()
    assert not anchor or anchor in anchors(page)


def test_what_is_not_in_the_catalogue_counts_as_an_error() -> None:
    assert severity("SG001") == ERROR
    assert severity("SG051") == WARNING
    assert severity("SG999") == ERROR


def test_nobody_can_change_it() -> None:
    with pytest.raises(TypeError):
        CATALOGUE["SG001"] = CATALOGUE["SG002"]  # type: ignore[index]
