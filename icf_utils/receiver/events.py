"""Events: a web server or a program is informed when a session has ended, images were refused, or space is low.

The journal has an event for each change (:mod:`icf_utils.receiver.event_table`). A thread plans what is new, and each
target (``[[event]]``) has a thread that delivers, so that one which hangs delays no other. A delivery is attempted
until the target confirms it or has had its attempts, after a pause that doubles each time. It may arrive twice, as when
the receiver is killed before it has recorded a confirmation, but always with the same id and content.

A request is signed as in the Standard Webhooks specification (https://www.standardwebhooks.com, version 1.0): the
headers ``webhook-id``, ``webhook-timestamp`` and ``webhook-signature``, which is an HMAC-SHA256 of id, time and body.
What is sent has no value of a DICOM header, no UID and no path. Identifiers of study and visit are left out where their
rule allows values that can identify a person.

Uses the network, and starts programs.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from icf_utils.credentials import Secret, find_secret
from icf_utils.errors import IcfError, InvalidSetting, printable
from icf_utils.fetch.errors import FetchFailure
from icf_utils.fetch.http import HttpClient, RetryPolicy
from icf_utils.fetch.tls import TlsFiles
from icf_utils.progress import Progress
from icf_utils.receiver.event_program import EventProgram
from icf_utils.receiver.event_table import Delivery, Event
from icf_utils.receiver.journal import Journal
from icf_utils.receiver.model import FINISHED, FIXED_NOTES, Session
from icf_utils.receiver.settings import EventSettings, ReceiverSettings, Rule

#: Seconds between two looks for what is new or due; before the second attempt; at most before another one.
_LOOK, _FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 5.0, 3600.0

#: Seconds for which a target gets nothing after a failed attempt, and between two events about the same condition.
_TARGET_PAUSE, _REPEAT_AFTER = 60.0, 3600.0

#: Bytes of an answer that are read, so that the connection can be used again.
_LARGEST_ANSWER = 1 << 16

#: Characters of the shortest key: 24 bytes are the least of the specification.
_SHORTEST_KEY = 24


# what is sent: pure


def event_body(event: Event, session: Session | None, rule: Rule | None, reasons: Sequence[tuple[str, int]]) -> str:
    """The JSON that targets get of an event; ``reasons`` says why images of the session were refused, and how many."""
    data = dict(event.detail)
    if session is not None:
        data = {**_session_data(session, rule), **data}
        data["reasons"] = [{"reason": text, "images": count} for text, count in reasons]
    whole = {"id": event.key, "type": event.kind, "timestamp": _time_text(event.time), "data": data}
    return json.dumps(whole, ensure_ascii=True)


def _session_data(session: Session, rule: Rule | None) -> dict[str, Any]:
    counts = ("images", "expected", "duplicates", "quarantined", "refused", "size")
    is_private = rule is None or rule.allow_identifying
    return {
        "session": session.id,
        "rule": session.rule,
        "study": None if is_private else session.study,
        "visit": None if is_private else session.visit,
        "revision": session.revision,
        "calling_ae": session.calling_ae,
        **{name: getattr(session, name) for name in counts},
        "first_received": _time_text(session.first_received),
        "last_received": _time_text(session.last_received),
        "notes": [note for note in session.notes if note in FIXED_NOTES],
    }


def _time_text(moment: float) -> str:
    return datetime.fromtimestamp(moment, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def sign(key: bytes, event_id: str, moment: int, body: bytes) -> str:
    """The value of ``webhook-signature``; ``moment`` is the value of ``webhook-timestamp``, in POSIX seconds."""
    digest = hmac.new(key, f"{event_id}.{moment}.".encode("ascii") + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode('ascii')}"


def decode_key(secret: Secret, source: str) -> bytes:
    """The bytes of a key: those of its base64 after ``whsec_``, or the text itself.

    Raises :class:`~icf_utils.errors.InvalidSetting`, which does not show it, for one that is too short or malformed.
    """
    text = secret.value
    if not text.startswith("whsec_"):
        key = text.encode("utf-8")
    else:
        try:
            key = base64.b64decode(text.removeprefix("whsec_"), validate=True)
        except (binascii.Error, ValueError) as error:
            raise InvalidSetting(source, "the key that signs requests is not base64 after 'whsec_'") from error
    if len(key) < _SHORTEST_KEY:
        raise InvalidSetting(source, f"the key that signs requests has fewer than {_SHORTEST_KEY} bytes")
    return key


def after_attempt(delivery: Delivery, target: EventSettings, problem: str, wait: float, now: float) -> Delivery:
    """A delivery after an attempt; ``problem`` is empty if it was confirmed. Pure.

    ``wait`` are the seconds that the server asks for.
    """
    attempts = delivery.attempts + 1
    if not problem:
        return replace(delivery, state="delivered", attempts=attempts, message="")
    if attempts >= target.attempts:
        return replace(delivery, state="failed", attempts=attempts, message=problem)
    pause = min(max(_FIRST_PAUSE * 2 ** min(attempts - 1, 20), wait), _LONGEST_PAUSE)
    return replace(delivery, attempts=attempts, due=now + pause, message=problem)


def wants(target: EventSettings, kind: str, rule: str) -> bool:
    """Whether a target gets an event of a kind; ``rule`` is that of its session, empty without one. Pure."""
    return kind in target.on and (not target.rules or not rule or rule in target.rules)


# delivery


class Target:
    """A place that gets events. :meth:`attempt` returns why it was not confirmed, and the seconds to wait, if any."""

    def attempt(self, delivery: Delivery) -> tuple[str, float]:
        raise NotImplementedError

    def close(self) -> None:
        """End an attempt that is running."""


class _WebTarget(Target):
    def __init__(self, target: EventSettings, key: bytes) -> None:
        self._url, self._key, self._timeout = target.url, key, float(target.timeout)
        policy = RetryPolicy(connect=self._timeout, read=self._timeout)
        self._client = HttpClient(1, policy, tls=TlsFiles(Path(target.ca)) if target.ca else None)

    def attempt(self, delivery: Delivery) -> tuple[str, float]:
        body, moment = delivery.body.encode("ascii"), int(time.time())
        headers = {
            "webhook-id": delivery.key,
            "webhook-timestamp": str(moment),
            "webhook-signature": sign(self._key, delivery.key, moment, body),
        }
        try:
            response = self._client.request_once("POST", self._url, headers=headers, body=_Json(body))
            with response:
                status, wait = response.status, response.headers.get("Retry-After", "")
                if 200 <= status < 300:
                    with suppress(FetchFailure):  # it is confirmed, whatever else comes
                        response.read(_LARGEST_ANSWER, self._timeout)
                    return "", 0.0
        except FetchFailure as failure:  # whose text has the address, which may contain a secret
            return failure.problem, 0.0
        except IcfError:
            return "the address cannot be used", 0.0
        return f"the server answered with status {status}", float(wait) if wait.isascii() and wait.isdecimal() else 0.0


@dataclass(frozen=True)
class _Json:
    data: bytes
    content_type: str = "application/json"

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[bytes]:
        yield self.data


class _ProgramTarget(Target):
    def __init__(self, target: EventSettings) -> None:
        self._program = EventProgram(target.command, float(target.timeout))

    def attempt(self, delivery: Delivery) -> tuple[str, float]:
        return self._program.run(delivery.kind, delivery.key, delivery.body.encode("ascii")), 0.0

    def close(self) -> None:
        self._program.close()


def read_keys(events: Iterable[EventSettings], source: str) -> dict[str, bytes]:
    """The keys of the web servers, by the names of the targets.

    Raises :class:`~icf_utils.errors.InvalidSetting` for a key or a program that is missing or cannot be used.
    """
    keys = {}
    for target in events:
        if target.command and shutil.which(target.command[0]) is None:
            problem = f"[[event]] '{target.name}' command: '{printable(target.command[0])}' is not a program"
            raise InvalidSetting(source, problem)
        if target.url:
            file = Path(target.secret_file) if target.secret_file else None
            secret = find_secret(target.secret_variable, file)
            place = target.secret_file or target.secret_variable
            if secret is None:
                raise InvalidSetting(source, f"[[event]] '{target.name}': the environment variable {place} is not set")
            keys[target.name] = decode_key(secret, place)
    return keys


class EventQueue:
    """Plans and delivers events until it is closed. The caller holds the spool, so that there is one queue for it.

    Raises as :func:`read_keys` does. The keys are removed from the environment, which programs could inherit.
    """

    def __init__(self, settings: ReceiverSettings, journal: Journal, progress: Progress) -> None:
        self._settings, self._journal, self._progress = settings, journal, progress
        keys = read_keys(settings.events, settings.source)
        for target in settings.events:
            os.environ.pop(target.secret_variable, None)
        self._targets = {
            target.name: _WebTarget(target, keys[target.name]) if target.url else _ProgramTarget(target)
            for target in settings.events
        }
        self._rules = {rule.name: rule for rule in settings.rules}
        self._closing = threading.Event()
        self._space = _SpaceWatch(settings)
        self._threads = [threading.Thread(target=self._plan_regularly, name="events", daemon=True)]
        for target in settings.events:
            name = f"event-{target.name}"
            self._threads.append(
                threading.Thread(target=self._deliver_regularly, args=(target,), name=name, daemon=True)
            )

    def start(self) -> None:
        """Start the threads."""
        if given_up := self._journal.events.fail_unknown([target.name for target in self._settings.events]):
            self._progress.message(f"events: {given_up} waited for a target that was removed from the settings")
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Start no more attempts, end programs, and wait a moment for the rest; nothing that waits is lost."""
        self._closing.set()
        for target in self._targets.values():
            target.close()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(2.0)

    def _plan_regularly(self) -> None:
        while not self._closing.wait(_LOOK):
            self._attempt_safely(self._plan)

    def _attempt_safely(self, action: Callable[[], object]) -> None:
        try:
            action()
        except IcfError as error:  # usually the journal's disk; the next look tries again
            if not self._closing.is_set():
                self._progress.message(f"events: {error}")

    def _plan(self) -> None:
        for detail in self._space.new_shortages():
            self._journal.events.add("low-space", **detail)
            self._progress.message(
                f"low space: {detail['free_bytes']} bytes are free on the disk of the {detail['disk']}"
            )
        for event in self._journal.events.unplanned():
            session = self._journal.session_of_event(event)
            rule = session.rule if session else ""
            reasons = self._journal.refusal_reasons(session.id) if session and event.kind in (*FINISHED, "held") else ()
            chosen = [target.name for target in self._settings.events if wants(target, event.kind, rule)]
            self._journal.events.plan(event, event_body(event, session, self._rules.get(rule), reasons), chosen)

    def _deliver_regularly(self, target: EventSettings) -> None:
        while not self._closing.wait(_LOOK):
            self._attempt_safely(lambda: self._deliver_due(target))

    def _deliver_due(self, target: EventSettings) -> None:
        """Deliver what is due to a target, until one attempt fails: then the target is left alone for a moment."""
        while not self._closing.is_set():
            delivery = self._journal.events.next_due(target.name, time.time())
            if delivery is None:
                return
            problem, wait = self._targets[target.name].attempt(delivery)
            if problem and self._closing.is_set():  # the attempt was ended; it does not count
                return
            found = after_attempt(delivery, target, problem, wait, time.time())
            self._journal.events.record_attempt(found)
            if found.attempts == 1 or found.state != "waiting":
                words = f": {problem}" if problem else ""
                self._progress.message(f"event {found.kind} {found.key} to {target.name}: {found.state}{words}")
            if problem:
                self._closing.wait(min(max(0.0, found.due - time.time()), _TARGET_PAUSE))


class _SpaceWatch:
    """Notices when space on the disks of spool and store becomes low: once, and again after it was not, or an hour."""

    def __init__(self, settings: ReceiverSettings) -> None:
        self._folders = {"spool": settings.spool, "store": settings.store}
        self._least, self._reserve = settings.listen.low_space_bytes, settings.listen.reserve * 1_000_000
        self._reported: dict[str, float] = {}

    def new_shortages(self) -> list[Mapping[str, Any]]:
        """What is to be reported about each disk on which space is low."""
        found: list[Mapping[str, Any]] = []
        for disk, folder in self._folders.items():
            free = _free_bytes(folder)
            if free is None or free >= self._least:
                if free is not None and free >= self._least * 1.05:
                    self._reported.pop(disk, None)
                continue
            now = time.monotonic()
            if now - self._reported.get(disk, -_REPEAT_AFTER) >= _REPEAT_AFTER:
                self._reported[disk] = now
                refuses = disk == "spool" and free <= self._reserve
                found.append(
                    {"disk": disk, "free_bytes": free, "low_space_bytes": self._least, "images_refused": refuses}
                )
        return found


def _free_bytes(folder: Path) -> int | None:
    """Free bytes on a folder's disk; ``None`` if the folder does not exist yet."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize
