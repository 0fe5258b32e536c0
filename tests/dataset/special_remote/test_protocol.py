"""Answers to the requests of git-annex."""

from __future__ import annotations

import io
import threading

import pytest

from icf_utils.dataset.special_remote.protocol import Conversation, Job


class Nothing:
    """A remote that has one key."""

    def retrieve(self, job: Job, key: str, path: str) -> None:
        raise OSError(5, "Input/output error", path)

    def is_present(self, job: Job, key: str) -> bool:
        return job.urls(key, "dl+archive:") != []

    def whereis(self, job: Job, key: str) -> str:
        return ""


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("EXTENSIONS INFO GETGITREMOTENAME\n", "EXTENSIONS INFO"),
        ("EXTENSIONS INFO ASYNC\n", "EXTENSIONS INFO ASYNC"),
        ("PREPARE\n", "PREPARE-SUCCESS"),
        ("CLAIMURL dl+archive:K#path=a&size=1\n", "CLAIMURL-SUCCESS"),
        ("CLAIMURL https://example.org\n", "CLAIMURL-FAILURE"),
        ("TRANSFER RETRIEVE K a b c\n", "TRANSFER-FAILURE RETRIEVE K a b c Input/output error"),
        ("TRANSFER STORE K a\n", "TRANSFER-FAILURE STORE K archives are read-only"),
        ("REMOVE K\n", "REMOVE-FAILURE K archives are read-only"),
        ("SOMETHING NEW\n", "UNSUPPORTED-REQUEST"),
    ],
)
def test_answers(said: str, answer: str) -> None:
    outgoing = io.StringIO()
    before = set(threading.enumerate())
    Conversation(Nothing(), io.StringIO(said), outgoing).run()
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
    assert outgoing.getvalue().splitlines() == ["VERSION 1", answer]
