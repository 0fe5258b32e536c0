"""Which visits there should be: tables and patterns, with all mistakes at once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from icf_utils.errors import InvalidSetting, TableRefused
from icf_utils.pipeline.model import VisitInput
from icf_utils.pipeline.visit_table import (
    VisitTable,
    collect_visits,
    expand_pattern,
    parse_folders,
    parse_table,
    read_table,
    select_visits,
)
from icf_utils.store.layout import Visit


@pytest.fixture
def base(tmp_path: Path) -> Path:
    for name in ("in/a", "in/b", "in/with; , tab"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


def parsed(text: str, base: Path) -> list[VisitInput]:
    return list(parse_table(text.encode(), base / "visits.csv", base / "store").visits)


def problems(text: str | bytes, base: Path) -> tuple[str, ...]:
    raw = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(TableRefused) as caught:
        parse_table(raw, base / "visits.csv", base / "store")
    assert caught.value.exit_code == 2
    assert all(problem in str(caught.value) for problem in caught.value.problems)
    return caught.value.problems


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_delimiters_order_quotes_and_blank_lines(delimiter: str, base: Path) -> None:
    lines = [["input", "study", "visit"], ["in/a", "s", "v1"], [], ['"in/with; , tab"', "s", "v2"]]
    text = "\ufeff" + "\r\n".join(delimiter.join(cells) for cells in lines)
    assert parsed(text, base) == [
        VisitInput("s", "v1", base / "in/a"),
        VisitInput("s", "v2", base / "in/with; , tab"),
    ]


def test_all_mistakes_at_once_with_their_lines(base: Path) -> None:
    text = "\n".join(
        [
            "study,visit,input",
            "s,v1,in/a",
            "../s,v2,in/a",
            "s,v 3,in/a",
            "",
            "s,v1,in/b",
            "s,v4,in/none",
            "s,v5,",
            "s,v6",
            "s,v7,in/a,more",
        ]
    )
    found = problems(text, base)
    assert [problem.split(":")[0] for problem in found] == [f"line {n}" for n in (3, 4, 6, 7, 8, 9, 10)]
    assert "study identifier '../s'" in found[0]
    assert "visit identifier 'v 3'" in found[1]
    assert found[2] == "line 6: visit s/v1 is already named (line 2)"
    assert "does not exist" in found[3]
    assert "names no input" in found[4]
    assert found[5] == "line 9: 2 values for 3 columns"


def test_more_mistakes_than_an_error_usually_names(base: Path) -> None:
    text = "study,visit,input\n" + "\n".join(f"s,v{number},none" for number in range(100))
    assert len(problems(text, base)) == 100


def test_headers(base: Path) -> None:
    columns = "study, visit, and input or folder"
    assert problems("", base) == (f"it is empty; the first line must name the columns: {columns}",)
    assert problems("study,visit\n", base) == (f"line 1: column 'input' or 'folder' is missing (columns: {columns})",)
    assert "column 'input' or 'folder' appears more" in problems("study,visit,Input,FOLDER\n", base)[0]
    found = problems("study,visit,session,visit\n", base)
    assert [
        "column 'input' or 'folder' is missing" in found[0],
        "unknown column 'session'" in found[1],
        "more than once" in found[2],
    ]
    assert problems("study,visit,input\n\n", base) == ("it lists no visits",)


@pytest.mark.parametrize("header", ["Folder,Study,Visit", "INPUT, study ,VISIT", "\ufefffolder,study,visit"])
def test_headers_in_upper_and_lower_case(header: str, base: Path) -> None:
    assert parsed(f"{header}\nin/a,s,v1\n", base) == [VisitInput("s", "v1", base / "in/a")]


def test_every_mistake_of_a_line(base: Path) -> None:
    found = problems("study,visit,input\ns,v1,in/a\na b,v 1,in/none\ns,v1,in/none\n", base)
    assert [problem.split(":")[0] for problem in found] == ["line 3"] * 3 + ["line 4"] * 2
    assert "study identifier 'a b'" in found[0]
    assert "visit identifier 'v 1'" in found[1]
    assert "does not exist" in found[2]
    assert "is already named (line 2)" in found[3]
    assert "does not exist" in found[4]


def folders(text: str, base: Path) -> VisitTable:
    return parse_folders(text.encode(), base / "visits.csv", base / "store", base)


def test_other_columns_of_a_table_of_folders_are_ignored_and_named(base: Path) -> None:
    found = folders("Age\tfolder\tstudy\tvisit\tRemark\n31\tin/a\ts\tv1\tnone\n", base)
    assert found == VisitTable((VisitInput("s", "v1", base / "in/a"),), ("Age", "Remark"))
    with pytest.raises(TableRefused, match="column 'visit' is missing"):
        folders("folder,study,session\nin/a,s,v1\n", base)


def test_a_folder_of_several_visits_is_refused(base: Path) -> None:
    """Also under another name of it; all lines are named."""
    (base / "in" / "other").symlink_to("a")
    text = "folder,study,visit\nin/a,s,v1\nin/b,s,v2\nin/../in/a/,s,v3\nin/other,t,v1\nin/none,s,v4\n"
    with pytest.raises(TableRefused) as caught:
        folders(text, base)
    gone, shared = caught.value.problems
    assert "does not exist" in gone
    assert (
        shared == f"'{base}/in/a' is named as the folder of several visits: s/v1 (line 2), s/v3 (line 4), t/v1 (line 5)"
    )


def test_files_that_are_not_tables(base: Path) -> None:
    assert problems(b"study,visit,input\ns,v,\xff\n", base) == ("line 2: not valid UTF-8",)
    assert problems('study,visit,input\ns,v,"in\n', base)[0].startswith("line 2: ")
    refusal = "does not exist" if sys.version_info >= (3, 11) else "line contains NUL"
    assert refusal in problems("study,visit,input\ns,v,in\0\n", base)[0]


def test_an_archived_visit_needs_no_input(base: Path) -> None:
    place = Visit(base / "store", "s", "v1")
    place.archive.parent.mkdir(parents=True)
    place.archive.touch()
    assert parsed("study,visit,input\ns,v1,\n", base) == [VisitInput("s", "v1")]
    assert parsed("study,visit,input\ns,v1,in/gone\n", base) == [VisitInput("s", "v1")]


def test_a_missing_table(tmp_path: Path) -> None:
    from icf_utils.errors import StorageFailure

    with pytest.raises(StorageFailure, match=r"visits\.csv"):
        read_table(tmp_path / "visits.csv", tmp_path)


def test_patterns(tmp_path: Path) -> None:
    for name in ("s1/v1", "s1/v2", "s2/v1", "s1/.hidden"):
        (tmp_path / "scanner" / name).mkdir(parents=True)
    (tmp_path / "scanner/s1/README.txt").touch()
    (tmp_path / "scanner/s2/v9.zip").touch()
    found = expand_pattern(f"{tmp_path}/scanner/{{study}}/{{visit}}", tmp_path / "store")
    assert [(item.name, item.input) for item in found] == [
        (name, tmp_path / "scanner" / name) for name in ("s1/v1", "s1/v2", "s2/v1")
    ]
    (zipped,) = expand_pattern(f"{tmp_path}/scanner/{{study}}/{{visit}}.zip", tmp_path / "store")
    assert (zipped.name, zipped.input) == ("s2/v9", tmp_path / "scanner/s2/v9.zip")


def test_patterns_that_cannot_be_used(tmp_path: Path) -> None:
    for pattern in ("/scanner/{visit}", "/scanner/{study}/{study}/{visit}", "", "x"):
        with pytest.raises(TableRefused, match="once each"):
            expand_pattern(pattern, tmp_path)
    with pytest.raises(TableRefused, match="no folder or file matches it"):
        expand_pattern(f"{tmp_path}/{{study}}/{{visit}}", tmp_path)
    for name in ("a b/v1", "a/v 2", "a/v3"):
        (tmp_path / "in" / name).mkdir(parents=True)
    with pytest.raises(TableRefused) as caught:
        expand_pattern(f"{tmp_path}/in/{{study}}/{{visit}}", tmp_path)
    assert len(caught.value.problems) == 2


def test_collect_and_select_visits(base: Path) -> None:
    place = Visit(base / "store", "old", "v0")
    place.archive.parent.mkdir(parents=True)
    place.archive.touch()
    (base / "visits.csv").write_text("study,visit,input\nnew,v1,in/a\nold,v1,in/b\n", encoding="utf-8")
    visits = collect_visits(base / "store", base / "visits.csv")
    assert [visit.name for visit in visits] == ["new/v1", "old/v0", "old/v1"]
    assert visits[1].input is None
    assert [visit.name for visit in select_visits(visits, ["old"])] == ["old/v0", "old/v1"]
    assert [visit.name for visit in select_visits(visits, ["old/v1", "new/"])] == ["new/v1", "old/v1"]
    with pytest.raises(InvalidSetting, match="'none', 'old/v7'"):
        select_visits(visits, ["old", "old/v7", "none"])
