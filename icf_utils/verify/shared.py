"""The checks of what the visits of a study share: the list of visits. Reads the study's files; changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from icf_utils.catalog.page import catalogued_visits
from icf_utils.catalog.visit_list import build_visit_list, read_visit_list
from icf_utils.errors import IcfError
from icf_utils.metadata.visit_list import VisitLine, encode_visit_list, parse_visit_list
from icf_utils.results import Notice
from icf_utils.settings import CatalogSettings
from icf_utils.store.layout import Study
from icf_utils.verify.checks import Finding, finding_from_error

_NO_LIST = "has no list of visits (visits.json) yet; 'icf-utils catalog build' and 'icf-utils verify --repair' make it"
_OTHER_BYTES = "has the right content, but not in the bytes that icf-utils writes"


def check_visit_list(study: Study, settings: CatalogSettings) -> tuple[list[Finding], tuple[Notice, ...]]:
    """Compare ``visits.json`` with the metadata of the study's visits.

    A visit may be missing from the list while its catalog stage has not been run. What somebody writes just now may not
    fit together: it is read once more.
    """
    try:
        found = _compare(study, settings) and _compare(study, settings)
        shown = catalogued_visits(study)
    except IcfError as error:
        return [finding_from_error(study.visit_list, error)], ()
    if found is None:
        return [], ((Notice("no-visit-list", study.study, _NO_LIST),) if shown else ())
    return [Finding(study.visit_list, subject, problem) for subject, problem in found], ()


def _compare(study: Study, settings: CatalogSettings) -> list[tuple[str, str]] | None:
    """What is wrong with each visit's line; ``None`` without a list."""
    raw = read_visit_list(study)
    if raw is None:
        return None
    expected = build_visit_list(study, settings)
    if raw == expected:
        return []
    lines = parse_visit_list(raw, str(study.visit_list))
    wanted = {line.visit: line for line in parse_visit_list(expected, str(study.visit_list))}
    problems = list(_line_problems(study, lines, wanted))
    if not problems and raw != encode_visit_list(lines):
        problems.append(("", _OTHER_BYTES))
    return problems


def _line_problems(
    study: Study, lines: tuple[VisitLine, ...], wanted: dict[str, VisitLine]
) -> Iterator[tuple[str, str]]:
    there = {line.visit: line for line in lines}
    if len(there) < len(lines):
        yield "", "lists a visit more than once"
    known, shown = set(study.visits()), set(catalogued_visits(study))
    for visit in sorted(there.keys() | wanted.keys()):
        if visit not in there:
            if visit in shown:
                yield visit, "is not listed, although the catalog shows it"
        elif visit not in wanted:
            if visit not in known:  # else its metadata cannot be read, which is reported with the visit
                yield visit, "is listed, but the store has no such visit"
        elif names := _different_fields(there[visit], wanted[visit]):
            yield visit, f"is not listed as its metadata describes it: {', '.join(names)}"


def _different_fields(found: VisitLine, expected: VisitLine) -> list[str]:
    names = [field.name for field in fields(VisitLine)]
    return [name for name in names if getattr(found, name) != getattr(expected, name)]
