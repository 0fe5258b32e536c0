"""A receiver that is killed at any moment loses no image that it answered with success.

The same holds for power cuts. A few moments by default; ``ICF_TRIALS=100 pytest tests/receiver/test_receive_kill.py``
for more of them. ``ICF_SEED`` chooses others.
"""

from __future__ import annotations

import gc
import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pydicom
import pytest

import icf_utils
from icf_utils.receiver.identify import image_key
from icf_utils.receiver.journal import Journal
from tests.data.make_dicom import uid, write_visit
from tests.receiver.receiving import Receiver, data_set, wait_until
from tests.trust.powercut import OPTIONS, Disk, age_locks, can_mount

pytest.importorskip("pynetdicom")

#: The library leaves the socket of a client that was cut off to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

TRIALS = int(os.environ.get("ICF_TRIALS", "3"))
#: Power cuts take longer.
CUTS = int(os.environ.get("ICF_TRIALS", "2"))
SEED = int(os.environ.get("ICF_SEED", "7"))
_IMAGES = 40
_RULE = 'called_ae = "STUDYA"\nstudy = "study-a"\nquiet = 1\nworkers = 2'
_PIXELS = bytes(200_000)


@dataclass
class Answer:
    """An image that was sent: its SOPInstanceUID, its data set, and the status of the answer."""

    instance: str
    content: bytes
    status: int


def send(port: int, images: Sequence[pydicom.Dataset], answers: list[Answer]) -> None:
    """Send until all are sent or the receiver is gone; ``answers`` takes what was answered."""
    from pynetdicom import AE
    from pynetdicom.sop_class import MRImageStorage  # type: ignore[attr-defined]

    entity = AE("TESTS")
    entity.network_timeout = entity.dimse_timeout = 10
    entity.acse_timeout = 3  # it waits so long for a peer that was killed before it replied
    entity.add_requested_context(MRImageStorage, "1.2.840.10008.1.2.1")
    association = entity.associate("127.0.0.1", port, ae_title="STUDYA")
    link = association.dul.socket
    connection = link.socket if link else None
    with suppress(RuntimeError, ValueError):  # the association has ended
        for image in images:
            answer = association.send_c_store(image)
            if "Status" in answer:
                answers.append(Answer(str(image.SOPInstanceUID), encoded(image), int(answer.Status)))
        association.release()
    if connection is not None:
        connection.close()  # the library does not if the peer was quicker


def encoded(image: pydicom.Dataset) -> bytes:
    """An image's data set as it is sent."""
    target = BytesIO()
    pydicom.dcmwrite(target, image, enforce_file_format=True)
    return data_set(target.getvalue())


def images_of(folder: Path, trial: int) -> list[pydicom.FileDataset]:
    paths = write_visit(
        folder,
        {1: ("t1", _IMAGES)},
        StudyInstanceUID=uid("trial", trial),
        Rows=250,
        Columns=400,
        PixelData=_PIXELS,
    )
    return [pydicom.dcmread(path) for path in paths]


def corrected(images: Sequence[pydicom.FileDataset]) -> list[pydicom.FileDataset]:
    found = deepcopy(list(images))
    for image in found:
        image.PatientID = "P2"
    return found


def without_study(images: Sequence[pydicom.FileDataset]) -> list[pydicom.FileDataset]:
    """Images that are refused."""
    found = deepcopy(list(images))
    for image in found:
        del image.StudyInstanceUID
        instance = pydicom.uid.UID(f"{image.SOPInstanceUID}.7")
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = instance
    return found


def test_every_image_answered_with_success_is_in_the_archive(tmp_path: Path) -> None:
    """Among images that are sent again, come late, are corrected or refused, and however often it is killed."""
    disturb(tmp_path, tmp_path, TRIALS, lambda: None)


def test_no_image_answered_with_success_is_lost_in_power_cuts(tmp_path: Path) -> None:
    """The same, when only what was on the device at the kill is left: store, spool and journal lie on a disk of their
    own, which nothing but ``fsync`` writes to.
    """
    if not can_mount(tmp_path / "try"):
        pytest.skip("no file system in a file can be mounted here")
    disk = Disk(tmp_path / "disk", OPTIONS[0], 64 * (CUTS + 4) << 20)
    disk.make()

    def cut_power() -> None:
        disk.cut_power()
        age_locks(disk.root / "store")

    try:
        disturb(tmp_path, disk.root, CUTS, cut_power)
    finally:
        disk.unmount()


def disturb(folder: Path, place: Path, trials: int, after_kill: Callable[[], None]) -> None:
    """Kill a receiver whose store and spool are in ``place`` at seeded moments, and judge what is there in the end."""
    dice = random.Random(SEED)
    receiver = Receiver(place, listen="reserve = 0\nworkers = 2", rule=_RULE)
    icf_utils.init_store(receiver.store, url="https://data.example.org")
    answers: list[Answer] = []
    earlier: list[list[pydicom.FileDataset]] = []
    try:
        for trial in range(trials):
            images = images_of(folder / "in" / str(trial), trial)
            shutil.rmtree(folder / "in")
            planned: list[pydicom.FileDataset] = images[: dice.choice((10, _IMAGES))]
            if earlier:
                planned = [*dice.choice(earlier), *planned]  # again, whether it is complete or not
                planned += corrected(dice.sample(dice.choice(earlier), 2))
            planned += without_study(images[:1])
            dice.shuffle(planned)
            earlier = [*earlier[-3:], images]
            receiver.start()
            sender = threading.Thread(target=send, args=(receiver.port, planned, answers))
            sender.start()
            time.sleep(dice.uniform(0.0, 3.0))
            receiver.kill()
            sender.join()
            after_kill()
        (place / "log").write_bytes(b"")  # worker processes may have reported that their receiver is gone
        receiver.start()
        for at in range(len(receiver.sessions())):
            wait_until(lambda: sum(item.is_finished for item in receiver.sessions()) > at, "one more is archived")  # noqa: B023
        check(receiver, answers)
        receiver.stop()
        assert not icf_utils.verify_store(receiver.store).findings
    finally:
        gc.collect()
        if receiver.process is not None:
            receiver.process.kill()
            receiver.process.wait()


def check(receiver: Receiver, answers: list[Answer]) -> None:
    """Compare what the senders were answered with store and journal."""
    sessions = receiver.sessions()
    # the sender did not try again, so images may be missing, and the session is partial
    assert {session.state for session in sessions} <= {"success", "partial", "failed"}
    assert all(not session.images for session in sessions if session.state == "failed"), receiver.log
    found: dict[str, bytes] = {}
    visits = {(session.study_uid, session.visit): session for session in sessions if session.state != "failed"}
    assert len({study for study, _ in visits}) == len(visits), "a study is in several visits"
    assert len([*receiver.store.glob("*/*.tar")]) == len(visits)
    for session in visits.values():
        images = receiver.images(session)
        assert not found.keys() & images.keys(), "an image is there twice"
        found.update(images)
    stored = [answer for answer in answers if answer.status == 0]
    assert stored
    for answer in stored:
        assert answer.instance in found, "an image is lost"
        assert data_set(found[answer.instance]) == answer.content, "an image is cut, or another one"
    in_quarantine = {path.name[:16] for session in sessions for path in session.quarantine.glob("*.dcm")}
    assert {image_key(answer.instance) for answer in answers if answer.status == 0xC002} <= in_quarantine
    journal = Journal(receiver.folder / "spool")
    refused = {key for session in sessions for key in journal.refused_images(session.id)}
    journal.close()
    assert {image_key(answer.instance) for answer in answers if answer.status == 0xC000} <= refused
    for session in sessions:
        assert session.quarantined == len([*session.quarantine.glob("*.dcm")])
