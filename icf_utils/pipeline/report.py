"""The report of a run: a page or JSON with everything that it did. Writes one file."""

from __future__ import annotations

import json
from pathlib import Path

from icf_utils.errors import storage_errors
from icf_utils.pipeline.model import RunHead, RunResult
from icf_utils.pipeline.report_page import html_report
from icf_utils.results import to_json_value
from icf_utils.store.files import replace_file


def write_report(path: Path, result: RunResult, head: RunHead) -> None:
    """Write the report as HTML, or as JSON if the name ends in ``.json``. Raises ``StorageFailure``."""
    write_text(path, json_report(result, head) if path.suffix == ".json" else html_report(result, head))


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step; write into what is not a file, such as ``/dev/stdout``."""
    with storage_errors(path, "write"):
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")
        else:
            replace_file(path.resolve(), text.encode("utf-8"), durable=False)


def json_report(result: RunResult, head: RunHead) -> str:
    """The whole result as JSON, with sizes in bytes and times in seconds."""
    value = to_json_value(result)
    assert isinstance(value, dict)
    return json.dumps({"run": to_json_value(head), **value}, ensure_ascii=True, indent=1) + "\n"
