"""datalad-catalog itself accepts all records of a catalog: its ``catalog-add`` validates each before it adds it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from icf_utils.catalog.content import _records_with_schema
from icf_utils.catalog.stage import catalogify_studyvisit_from_meta
from icf_utils.store.layout import Study
from tests.catalog.conftest import STUDY, deposit, make_visit, typical_images

DESCRIPTION = """
[study]
name = "Memory"
description = "Two sessions for each participant."
keywords = ["memory"]
license = "CC BY 4.0"
license_url = "https://creativecommons.org/licenses/by/4.0/"
doi = "10.1234/memory"
funding = ["Example Foundation, grant 1"]
contact = "memory@example.org"
access_url = "https://example.org/access"

[[study.authors]]
name = "Doe, Jane"
orcid = "0000-0002-1825-0097"
email = "jane@example.org"

[[study.publications]]
title = "Memory and sleep"
doi = "10.1234/sleep"
authors = ["Doe, Jane"]
"""


@pytest.mark.skipif(not shutil.which("datalad"), reason="datalad is not installed")
def test_every_record_can_be_added_to_the_catalog(store: Path, tmp_path: Path) -> None:
    deposit(store, "v1", make_visit("v1", typical_images()))
    (store / STUDY / "icf.toml").write_text(DESCRIPTION, encoding="utf-8")
    catalogify_studyvisit_from_meta(store, STUDY, "v1")
    catalog = Study(store, STUDY).catalog
    nodes = (json.loads(path.read_text(encoding="utf-8")) for path in sorted(catalog.glob("metadata/*/*/*/*.json")))
    records = [record for node in nodes for record in _records_with_schema(node)]
    assert {record["type"] for record in records} == {"dataset", "file"}
    lines = tmp_path / "records.jsonl"
    lines.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    command = ["datalad", "-f", "json", "catalog-add", "-c", str(catalog), "-m", str(lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [answer["status"] for answer in answers] == ["ok"] * len(records), done.stdout + done.stderr
