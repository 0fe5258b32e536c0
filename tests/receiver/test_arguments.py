"""Arguments of one send: announced, uploaded, or in an element of the images; kept for reruns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from icf_utils.errors import InvalidSetting
from icf_utils.receiver.arguments import announce_arguments, keep_arguments, session_arguments, split_words
from icf_utils.receiver.identify import study_key
from icf_utils.receiver.journal import Journal
from icf_utils.receiver.settings import Rule, parse_receiver_settings
from icf_utils.store.layout import Visit
from tests.data.make_dicom import uid, write_visit
from tests.receiver.pages import TOKEN, begin, served
from tests.receiver.receiving import PATIENCE, running, storescu

RULE = Rule(called_ae="A", study="study-a", arguments="StudyDescription", allow_identifying=True)


def test_words() -> None:
    assert split_words("one 'two words' \"$HOME\"") == ("one", "two words", "$HOME")
    for text in ("'open", "x " * 65, "a\x00b", "x" * 1001):
        with pytest.raises(InvalidSetting):
            split_words(text)


def test_what_is_announced_is_used_once_and_kept(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "spool")
    session = begin(journal, "v1", "SCANNER", 1)
    write_visit(session.input, {1: ("t1", 2)}, StudyDescription="from images")
    announce_arguments(journal.spool, study_key(session.study_uid), ["announced", "a b"])
    assert session_arguments(journal.spool, RULE, session) == ("announced", "a b")
    assert list((journal.spool / "arguments").iterdir()) == []
    assert session_arguments(journal.spool, RULE, session) == ("announced", "a b")
    other = begin(journal, "v2", "SCANNER", 1)
    write_visit(other.input, {1: ("t1", 2)}, StudyDescription="from 'the images'")
    assert session_arguments(journal.spool, Rule(called_ae="A", study="s"), other) is None
    assert session_arguments(journal.spool, RULE, other) == ("from", "the images")
    journal.close()


def test_what_nobody_has_used_goes(tmp_path: Path) -> None:
    announce_arguments(tmp_path, "0" * 12, ["old"])
    os.utime(tmp_path / "arguments" / ("0" * 12), (0, time.time() - 100_000))
    announce_arguments(tmp_path, "1" * 12, ["new"])
    assert [path.name for path in (tmp_path / "arguments").iterdir()] == ["1" * 12]
    with pytest.raises(InvalidSetting):
        announce_arguments(tmp_path, "../../x", ["new"])


def test_images_must_agree(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "spool")
    session = begin(journal, "v1", "SCANNER", 1)
    write_visit(session.input / "a", {1: ("t1", 1)}, StudyDescription="one")
    write_visit(session.input / "b", {2: ("t2", 1)}, StudyDescription="two")
    with pytest.raises(InvalidSetting, match="different values of StudyDescription"):
        session_arguments(journal.spool, RULE, session)
    keep_arguments(session.folder, [])
    assert session_arguments(journal.spool, RULE, session) == ()
    journal.close()


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('arguments = "Other"', "expected a DICOM keyword or a tag"),
        ('arguments = "ImageComments"', "can identify a person"),
        ('arguments = "0099,1010"', "can identify a person"),
        ('arguments = "0099,1010"\nallow_identifying = true', ""),
    ],
)
def test_settings(tmp_path: Path, lines: str, words: str) -> None:
    text = f'store = "s"\nspool = "p"\n[[rule]]\ncalled_ae = "A"\nstudy = "a"\n{lines}\n'
    if not words:
        assert parse_receiver_settings(text.encode(), tmp_path / "receiver.toml").rules[0].arguments
        return
    with pytest.raises(InvalidSetting, match=words):
        parse_receiver_settings(text.encode(), tmp_path / "receiver.toml")


def test_arguments_of_send_reach_the_program(tmp_path: Path) -> None:
    """Announced by ``icf-utils send``; without that, those in an element; the images arrive unchanged."""
    sent = write_visit(tmp_path / "in", {1: ("t1", 1)}, StudyID="v1", StudyInstanceUID=uid("s"))
    write_visit(tmp_path / "other", {1: ("t1", 1)}, StudyID="v2", StudyInstanceUID=uid("t"), StudyDescription="x 'y z'")
    rule = (
        'called_ae = "STUDYA"\nstudy = "study-a"\nvisit = "{StudyID}"\nallow_identifying = true\nquiet = 1\n'
        'until = "metadata"\nprocess = ["say"]\narguments = "StudyDescription"\n'
        '[[processing]]\nname = "say"\nversion = "1"\nisolation = "none"\n'
        """command = ["sh", "-c", 'for word do echo "$word"; done > words', "sh", "{arguments}"]\n"""
    )
    with running(tmp_path, rule=rule) as receiver:
        journal = Journal(tmp_path / "spool")
        with served(tmp_path, journal) as (url, _):
            command = [sys.executable, "-m", "icf_utils.cli.main", "send", str(tmp_path / "in"), "127.0.0.1"]
            command += [str(receiver.port), "--aec", "STUDYA", "--arguments", "fast 'two words'", "--url", url]
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                timeout=PATIENCE,
                env={**os.environ, "ICF_SESSIONS_TOKEN": TOKEN},
            )
            assert done.returncode == 0, done.stderr
        journal.close()
        assert storescu(receiver, tmp_path / "other").returncode == 0
        first, second = receiver.finished(2)
        assert (first.state, second.state) == ("success", "success"), first.failure + second.failure
        assert len(receiver.images(first)) == len(sent)
        assert "two words" not in receiver.log + first.log.read_text(encoding="utf-8")
    said = {}
    for visit in ("v1", "v2"):
        place = Visit(receiver.store, "study-a", visit)
        with tarfile.open(place.output("say")) as tar:
            member = tar.extractfile(f"study-a_{visit}_say/OUTPUT/words")
            assert member is not None
            said[visit] = member.read().decode().splitlines()
        assert json.loads(place.provenance("say").read_bytes())["arguments"] == said[visit]
    assert said == {"v1": ["fast", "two words"], "v2": ["x", "y z"]}
