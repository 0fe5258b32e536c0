"""A receiver that is killed at any moment loses no image that it answered with success.

A few moments by default; ``ICF_TRIALS=100 pytest tests/receiver/test_receive_kill.py`` for more of them. ``ICF_SEED``
chooses others.
"""

from __future__ import annotations

import gc
import os
import random
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.data.make_dicom import uid, write_visit
from tests.receiver.receiving import Receiver, data_set, data_sets, wait_until

pytest.importorskip("pynetdicom")

#: The library leaves the socket of a client that was cut off to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

TRIALS = int(os.environ.get("ICF_TRIALS", "3"))
SEED = int(os.environ.get("ICF_SEED", "7"))
_IMAGES = 40
_RULE = 'called_ae = "STUDYA"\nstudy = "study-a"\nquiet = 1\nworkers = 2'
_PIXELS = bytes(200_000)


def send(port: int, paths: list[Path], stored: set[str]) -> None:
    """Send until all are sent or the receiver is gone; ``stored`` takes the names that were answered with success."""
    from pynetdicom import AE
    from pynetdicom.sop_class import MRImageStorage  # type: ignore[attr-defined]

    entity = AE("TESTS")
    entity.network_timeout = entity.dimse_timeout = 30
    entity.add_requested_context(MRImageStorage, "1.2.840.10008.1.2.1")
    association = entity.associate("127.0.0.1", port, ae_title="STUDYA")
    link = association.dul.socket
    connection = link.socket if link else None
    with suppress(RuntimeError, ValueError):  # the association has ended
        for path in paths:
            answer = association.send_c_store(path)
            if "Status" in answer and answer.Status == 0:
                stored.add(path.stem)
        association.release()
    if connection is not None:
        connection.close()  # the library does not if the peer was quicker


def test_every_image_answered_with_success_is_in_the_archive(tmp_path: Path) -> None:
    dice = random.Random(SEED)
    receiver = Receiver(tmp_path, listen="reserve = 0\nworkers = 2", rule=_RULE)
    answered: dict[str, set[str]] = {}
    sent: dict[str, bytes] = {}
    try:
        for trial in range(TRIALS):
            study = uid("trial", trial)
            paths = write_visit(
                tmp_path / "in" / str(trial),
                {1: ("t1", _IMAGES)},
                StudyInstanceUID=study,
                Rows=250,
                Columns=400,
                PixelData=_PIXELS,
            )
            own = data_sets(paths)
            named = {path: path.rename(path.with_name(f"{key}.dcm")) for key, path in zip(own, paths, strict=True)}
            sent.update(own)
            stored = answered[study] = set[str]()
            receiver.start()
            sender = threading.Thread(target=send, args=(receiver.port, list(named.values()), stored))
            sender.start()
            time.sleep(dice.uniform(0.0, 1.2))
            receiver.kill()
            sender.join()
        (tmp_path / "log").write_bytes(b"")  # worker processes may have reported that their receiver is gone
        receiver.start()
        for at in range(len(receiver.sessions())):
            wait_until(lambda: sum(item.is_finished for item in receiver.sessions()) > at, "one more is archived")  # noqa: B023
        sessions = receiver.sessions()
        # the sender did not try again, so images may be missing, and the session is partial
        assert {session.state for session in sessions} <= {"success", "partial", "failed"}
        assert all(not session.images for session in sessions if session.state == "failed"), receiver.log
        found: dict[str, set[str]] = {}
        for session in sessions:
            if session.state != "failed":
                images = receiver.images(session)
                here = found.setdefault(session.study_uid, set())
                assert not here & set(images), "an image is there twice"
                here |= set(images)
                for key, raw in images.items():
                    assert data_set(raw) == sent[key], "an image is cut"
        for study, stored in answered.items():
            assert stored <= found.get(study, set())
        assert any(answered.values())
        receiver.stop()
    finally:
        gc.collect()
        if receiver.process is not None:
            receiver.process.kill()
            receiver.process.wait()
