"""The receiver's settings: mistakes are refused, and visits get valid identifiers."""

from __future__ import annotations

import configparser
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icf_utils.errors import InvalidSetting
from icf_utils.receiver.admission import AssociationRejection, admit_association
from icf_utils.receiver.identify import Sender, visit_identifier
from icf_utils.receiver.settings import Rule, parse_receiver_settings
from icf_utils.store.layout import check_identifier
from tests.cli.program import icf
from tests.pages import DOCS, blocks
from tests.receiver.receiving import reserve_above_free

_HEAD = 'store = "s"\nspool = "i"\n'
_RULE = '[[rule]]\ncalled_ae = "A"\nstudy = "study"\n'


def parse(text: str) -> tuple[Rule, ...]:
    return parse_receiver_settings(text.encode(), Path("/etc/icf/receiver.toml")).rules


def test_folders_are_relative_to_the_file() -> None:
    found = parse_receiver_settings((_HEAD + _RULE).encode(), Path("/etc/icf/receiver.toml"))
    assert (found.store, found.spool) == (Path("/etc/icf/s"), Path("/etc/icf/i"))
    assert (found.rules[0].name, found.rules[0].visit) == ("A", "{study_key}")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("=", "not a TOML file"),
        (_RULE, "store is missing: expected text"),
        (_HEAD, r"there is no \[\[rule\]\]"),
        (_HEAD + _RULE + "colour = 1", r"\(A\) colour: unknown key"),
        (_HEAD + _RULE + "quiet = 0", "at least 1"),
        (_HEAD + _RULE + 'quiet = "1"', "quiet: expected a whole number, found the text '1'"),
        (_HEAD + _RULE + _RULE, "several rules are called"),
        (_HEAD + _RULE + 'addresses = ["10.0.0.300"]', "not an IP address"),
        (_HEAD + _RULE + 'until = "archive"', "expected 'metadata', 'dataset' or 'catalog', found 'archive'"),
        (_HEAD + _RULE + 'calling_ae = ["seventeen letters"]', "calling_ae: .* is not an AE title"),
        (_HEAD + _RULE + 'visit = "{PatientID}"', "can identify a person"),
        (_HEAD + _RULE + 'visit = "{Nonsense}"', "unknown field {Nonsense}"),
        (_HEAD + _RULE + 'visit = "{PixelData}"', "has no value that a text can contain"),
        (_HEAD + _RULE + 'visit = "../{study_key}"', "is not a template"),
        (_HEAD + _RULE + 'xnat = "https://xnat.example.org"', "xnat_project: .* is not a project ID"),
        (_HEAD + _RULE + 'xnat = "xnat.example.org"\nxnat_project = "P"', r"\(A\) xnat: expected an address"),
        (
            _HEAD + _RULE + 'xnat = "https://x.org"\nxnat_project = "P"\nxnat_dest = "here"',
            r"\(A\) xnat_dest: .* found 'here'",
        ),
        (_HEAD + _RULE + 'xnat_project = "P"', "xnat_project: requires 'xnat'"),
        (_HEAD + _RULE + 'timezone = "Europe/Nowhere"', r"number 1 \(A\) timezone: .*is not a time zone"),
        (_HEAD + _RULE + 'where = { Modalty = "MR" }', "where: 'Modalty' is not a DICOM keyword"),
        (_HEAD + _RULE + "where = { Modality = 1 }", "where: expected a table of texts"),
        (_HEAD + _RULE.replace('"study"', '"{PatientID}"'), "study: PatientID can identify a person"),
        ('store = ""\nspool = "i"\n' + _RULE, "'store' must be a folder"),
        ('store = "s"\nspool = " "\n' + _RULE, "'spool' must be a folder"),
        ('store = "s"\nspool = "./s/"\n' + _RULE, "are the same folder"),
        ('store = "s"\nspool = "s/spool"\n' + _RULE, "'spool' is inside 'store'"),
        ('store = "i/x/../s"\nspool = "i"\n' + _RULE, "'store' is inside 'spool'"),
        (_HEAD + "[http]\nunpacked_limit = 0\n" + _RULE, "at least 1"),
        (_HEAD + "[listen]\nport = 70000\n" + _RULE, "must be at most 65535, found 70000"),
        (_HEAD + '[listen]\nkey = "k"\n' + _RULE, "TLS needs"),
    ],
)
def test_mistakes_are_refused(text: str, problem: str) -> None:
    with pytest.raises(InvalidSetting, match=problem) as refused:
        parse(text)
    assert str(refused.value).startswith("/etc/icf/receiver.toml: ")
    assert " --" not in str(refused.value)  # the file has no options


def test_a_study_that_cannot_name_files() -> None:
    with pytest.raises(InvalidSetting, match=r"number 1 \(A\): the study identifier"):
        parse(_HEAD + '[[rule]]\ncalled_ae = "A"\nstudy = "../x"')


@pytest.mark.parametrize(
    ("listen", "problem"),
    [
        ('certificate = "none.pem"\nkey = "none.key"', "certificate: cannot read '.*none.pem'"),
        ('certificate = "noise.pem"\nkey = "noise.pem"', "cannot be used"),
        ('host = "192.0.2.1"', r"cannot listen at 192\.0\.2\.1:11112"),
        ('host = "no such host"', "cannot listen at no such host"),
        ("reserve = 1000000000", "1.0 PB of the spool's disk are to stay free, and it has only "),
    ],
)
@pytest.mark.parametrize("options", [["--check"], []])
def test_settings_that_cannot_work_on_this_machine_are_refused(
    tmp_path: Path, listen: str, problem: str, options: list[str]
) -> None:
    """Also at start, and before anything is made."""
    pytest.importorskip("pynetdicom")
    (tmp_path / "noise.pem").write_text("noise")
    (tmp_path / "r.toml").write_text(f"{_HEAD}[listen]\n{listen}\n{_RULE}")
    ran = icf("receive", *options, tmp_path / "r.toml")
    assert ran.code == 2
    assert re.search(problem, ran.err), ran.err
    assert str(tmp_path / "r.toml") in ran.err
    assert not (tmp_path / "i").exists()


def test_a_disk_without_room_now_is_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("pynetdicom")
    (tmp_path / "r.toml").write_text(f"{_HEAD}[listen]\nreserve = {reserve_above_free(tmp_path)}\n{_RULE}")
    ran = icf("receive", "--check", tmp_path / "r.toml")
    assert (ran.code, "warning: no image would be taken now: " in ran.err) == (0, True), ran


def test_an_address_in_use_is_not_a_mistake_of_the_settings(tmp_path: Path) -> None:
    pytest.importorskip("pynetdicom")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        (tmp_path / "r.toml").write_text(f"{_HEAD}[listen]\nport = {port}\n{_RULE}")
        assert icf("receive", "--check", tmp_path / "r.toml").code == 0
        assert "Address already in use" in icf("receive", tmp_path / "r.toml").err


@given(st.text())
def test_any_value_gives_a_valid_identifier_or_none(text: str) -> None:
    (rule,) = parse(_HEAD + _RULE + 'visit = "{PatientID}"\nallow_identifying = true')
    try:
        visit = visit_identifier(rule, Sender("A", "B", "::1"), "1.2.3", lambda _: text)
    except KeyError:
        return
    assert check_identifier("visit", f"{visit}-r999") == f"{visit}-r999"


def test_a_rule_names_the_condition_that_a_sender_does_not_meet() -> None:
    (rule,) = parse(_HEAD + _RULE + 'calling_ae = ["B"]\naddresses = ["10.1.0.0/16", "fd00::/8"]')
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "fd00::1"):
        assert rule.mismatch("B", address) == ""
    for address in ("10.2.2.3", "::1"):
        assert rule.mismatch("B", address) == "address"
    assert rule.mismatch("b", "10.1.2.3") == "calling AE"


def test_an_association_is_rejected_with_the_codes_of_the_standard() -> None:
    rules = parse(_HEAD + _RULE + 'calling_ae = ["B"]\naddresses = ["10.1.0.0/16"]\n')
    assert admit_association(rules, Sender("A", "B", "10.1.2.3")) == rules[:1]
    for sender, codes in (
        (Sender("X", "B", "10.1.2.3"), (1, 1, 7)),
        (Sender("A", "C", "10.1.2.3"), (1, 1, 3)),
        (Sender("A", "B", "10.2.2.3"), (1, 1, 1)),
    ):
        rejection = admit_association(rules, sender)
        assert isinstance(rejection, AssociationRejection)
        assert rejection.codes == codes


def test_the_page_lists_every_setting_and_its_example_is_valid() -> None:
    from dataclasses import fields

    from icf_utils.receiver.settings import EventSettings, Http, Listen, Target

    example, *others = blocks("receive.md", "toml")
    assert parse(example)[0].study == "study-a"
    (routing,) = [text for text in others if "[[rule.send]]" in text]
    assert [target.name for target in parse(routing)[0].send] == ["pacs", "second-pacs"]
    assert all(map(parse, others))
    page = DOCS.joinpath("receive.md").read_text(encoding="utf-8")
    for item in (*fields(Listen), *fields(Rule), *fields(Http), *fields(Target), *fields(EventSettings)):
        assert f"`{item.name}`" in page


def test_the_template_and_the_systemd_unit_of_the_page_are_valid(tmp_path: Path) -> None:
    page = DOCS.joinpath("receive.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"`(visit = \".*?\")`", page)
    assert parse(_HEAD + _RULE + example)[0].keywords
    unit = DOCS.joinpath("examples", "icf-receiver.service").read_text(encoding="utf-8")
    found = configparser.ConfigParser(strict=False, interpolation=None)
    found.optionxform = str  # type: ignore[assignment,method-assign]
    found.read_string(unit)
    assert found["Service"]["SuccessExitStatus"] == "143"  # the exit code of a receiver that is stopped
    program = shutil.which("systemd-analyze")
    if not program:
        pytest.skip("systemd is not installed")
    path = tmp_path / "icf-receiver.service"
    path.write_text(unit.replace("/usr/local/bin/icf-utils", "/bin/true").replace("User=icf\n", ""))
    done = subprocess.run([program, "verify", path], capture_output=True, text=True, check=False, timeout=120)
    assert str(path) not in done.stderr, done.stderr
