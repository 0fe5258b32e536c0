"""Rules by AE titles with patterns and by header values: the first that fits takes the image."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.program import icf
from tests.data.make_dicom import uid, write_visit
from tests.receiver.receiving import running, storescu

pytest.importorskip("pynetdicom")

_RULES = """name = "phantoms"
called_ae = "*"
where = { StudyDescription = "*phantom*" }
study = "qa"
quiet = 1
visit = "{calling_ae}-{study_key}"
[[rule]]
name = "trial"
called_ae = "STUDY?"
calling_ae = ["SCAN*"]
where = { StudyDescription = "Trial ?", Modality = "MR" }
study = "{StudyDescription}"
quiet = 1
allow_identifying = true
[[rule]]
name = "rest"
called_ae = "REST"
study = "rest"
quiet = 1"""


def test_the_first_rule_that_fits_takes_the_image(tmp_path: Path) -> None:
    for name in ("Trial A", "head phantom", "something else"):
        write_visit(tmp_path / name, {1: ("t1", 2)}, StudyDescription=name, StudyInstanceUID=uid(name))
    with running(tmp_path, rule=_RULES) as receiver:
        for name, called, calling in (
            ("Trial A", "STUDY1", "SCAN1"),
            ("head phantom", "STUDY1", "SCAN1"),
            ("something else", "REST", "OTHER"),
            ("head phantom", "ANYTHING", "SCAN2"),
        ):
            done = storescu(receiver, tmp_path / name, "-aet", calling, called=called)
            assert done.returncode == 0, done.stderr
        found = {(item.rule, item.study, item.visit.partition("-")[0]) for item in receiver.finished(4)}
        assert {(rule, study) for rule, study, _ in found} == {
            ("phantoms", "qa"),
            ("trial", "Trial_A"),
            ("rest", "rest"),
        }
        assert ("phantoms", "qa", "SCAN2") in found
        assert {item.state for item in receiver.sessions()} == {"success"}
        # an image that no rule takes is refused, and a session says so
        storescu(receiver, tmp_path / "something else", "-nh", "-aet", "SCAN1", called="STUDY1")
        refused = receiver.finished(5)[-1]
        assert (refused.visit, refused.state, refused.refused) == ("refused-SCAN1", "failed", 2)
        assert refused.notes[0].endswith("the image matches no rule (0xC003)")


def test_explain_says_which_rule_and_why(tmp_path: Path) -> None:
    (path,) = write_visit(tmp_path / "in", {1: ("t1", 1)}, StudyDescription="Trial A")
    settings = tmp_path / "receiver.toml"
    settings.write_text(f'store = "store"\nspool = "spool"\n[[rule]]\n{_RULES}\n', encoding="utf-8")
    ran = icf("receive", settings, "--explain", path, "--calling", "SCAN1", "--called", "STUDY1")
    assert ran.code == 0, ran.err
    first, second, third, last = ran.out.splitlines()
    assert first == "rule phantoms: StudyDescription does not match '*phantom*'"
    assert second.startswith("rule trial: takes it, as Trial_A/")
    assert third == "rule rest: the called AE title does not match 'REST'"
    assert last == "taken by rule trial"
    ran = icf("receive", settings, "--explain", path, "--calling", "OTHER", "--called", "STUDY1", "--json")
    assert (ran.code, ran.json["result"]["taken_by"]) == (1, None)
    assert not (tmp_path / "spool").exists()
    assert icf("receive", settings, "--called", "X").code == 2
