"""Routing: files of a session are sent on when it has ended, to the nodes that its rule names (``[[rule.send]]``).

What is to be sent is decided when a session ends, by its state, and again when a partial one becomes a success; from
then on each target has a state of its own, in the file ``sends.json`` of the session's folder, and is tried again with
growing pauses until it has everything or has had its attempts. An alternative is tried when the target that it replaces
has failed. A file in ``spool/sends`` marks the sessions that are not done, so that a receiver that starts finds them.
Sends over the network, in one thread.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from icf_utils.dicom.constants import SPECIFIC_CHARACTER_SET
from icf_utils.dicom.values import tag_for_keyword
from icf_utils.errors import IcfError, InputRefused, InvalidSetting, printable
from icf_utils.fetch.tls import TlsFiles
from icf_utils.formatting import format_count
from icf_utils.progress import Progress
from icf_utils.receiver.identify import unmet_condition
from icf_utils.receiver.journal import Journal
from icf_utils.receiver.model import Session, in_one_line
from icf_utils.receiver.settings import ReceiverSettings, Rule, Target, xnat_target
from icf_utils.receiver.spool import SEND_MARKS, SENDS_FILE, mark_sends
from icf_utils.sources.images import scan_files
from icf_utils.sources.open import open_source
from icf_utils.sources.source import Source
from icf_utils.store.files import replace_file
from icf_utils.store.layout import Visit

if TYPE_CHECKING:
    from icf_utils.xnat.upload_body import SessionUpload

SendState = Literal["waiting", "sent", "failed", "not needed"]

#: Seconds between two looks for what is due, before the second attempt, and at most before another one.
_LOOK, _FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0, 3600.0


@dataclass(frozen=True)
class TargetState:
    """The state of one target of a session. ``due`` is the POSIX time of the next attempt, ``images`` were sent."""

    name: str
    state: SendState
    attempts: int = 0
    due: float = 0.0
    images: int = 0
    message: str = ""


def plan_sends(targets: Sequence[Target], outcome: str) -> tuple[TargetState, ...]:
    """The first states of a rule's targets for a session that ended as ``success``, ``partial`` or ``failed``. Pure."""
    return tuple(
        TargetState(target.name, "waiting" if target.when in (outcome, "always") else "not needed")
        for target in targets
    )


def follow_outcome(targets: Sequence[Target], states: Sequence[TargetState], outcome: str) -> tuple[TargetState, ...]:
    """The states of a session that has another outcome now: what was not needed before may be. Pure."""
    wanted = {target.name for target in targets if target.when == outcome}
    return tuple(
        TargetState(state.name, "waiting") if state.state == "not needed" and state.name in wanted else state
        for state in states
    )


def next_target(targets: Sequence[Target], states: Sequence[TargetState], now: float) -> Target | None:
    """The target that is to be tried now; an alternative only when what it replaces has failed. Pure."""
    by_name = {state.name: state for state in states}
    for target in targets:
        state = by_name.get(target.name)
        if state is None or state.state != "waiting" or state.due > now:
            continue
        first = by_name.get(target.alternative_to)
        if first is None or first.state == "failed":
            return target
    return None


def settle(targets: Sequence[Target], states: Sequence[TargetState]) -> tuple[TargetState, ...]:
    """Alternatives of what has been sent, or is not needed, are not needed. Pure."""
    by_name = {state.name: state for state in states}
    found = []
    for state in states:
        target = next((one for one in targets if one.name == state.name), None)
        first = by_name.get(target.alternative_to) if target else None
        is_over = target is None or (first is not None and first.state in ("sent", "not needed"))
        found.append(replace(state, state="not needed") if state.state == "waiting" and is_over else state)
    return tuple(found)


def after_attempt(target: Target, state: TargetState, images: int, problem: str, now: float) -> TargetState:
    """The state of a target after an attempt; ``problem`` is empty if everything was sent. Pure."""
    attempts = state.attempts + 1
    if not problem:
        return replace(state, state="sent", attempts=attempts, images=images, message="", due=0.0)
    if attempts >= target.attempts:
        return replace(state, state="failed", attempts=attempts, images=images, message=problem, due=0.0)
    pause = min(_FIRST_PAUSE * 2 ** (attempts - 1), _LONGEST_PAUSE)
    return replace(state, attempts=attempts, images=images, message=problem, due=now + pause)


def read_states(session: Session) -> tuple[TargetState, ...]:
    """The states of a session's targets; none where nothing is to be sent."""
    try:
        return tuple(TargetState(**item) for item in json.loads((session.folder / SENDS_FILE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return ()


def _write_states(session: Session, states: Sequence[TargetState]) -> None:
    data = json.dumps([asdict(state) for state in states], indent=1).encode("ascii") + b"\n"
    replace_file(session.folder / SENDS_FILE, data)


def _mark(spool: Path, session_id: str) -> Path:
    return spool / SEND_MARKS / session_id


def start_sends(settings: ReceiverSettings, rule: Rule, session: Session, outcome: str) -> None:
    """Decide what is sent of a session that ends as ``outcome``. Raises :class:`~icf_utils.errors.StorageFailure`."""
    states = plan_sends(rule.send, outcome)
    if states:
        _write_states(session, states)
    if any(state.state == "waiting" for state in states):
        mark_sends(settings.spool, session.id)


def request_resend(spool: Path, session: Session, names: Sequence[str]) -> None:
    """Send a session again: to these targets, or to all that were needed. The receiver does it.

    Raises :class:`~icf_utils.errors.InvalidSetting` for targets that the session does not have.
    """
    states = read_states(session)
    known = [state.name for state in states]
    if not known or not set(names) <= set(known):
        have = ", ".join(known) or "none"
        raise InvalidSetting("--target", f"the targets of {session.id} are: {printable(have)}")
    chosen = set(names) or {state.name for state in states if state.state != "not needed"}
    if not chosen:
        raise InvalidSetting(
            "--target", f"no target of {session.id} was needed; name one: {printable(', '.join(known))}"
        )
    _write_states(session, [TargetState(state.name, "waiting") if state.name in chosen else state for state in states])
    mark_sends(spool, session.id)


class SendQueue:
    """Sends what is due until it is closed. The caller holds the spool, so that there is one queue for it."""

    def __init__(self, settings: ReceiverSettings, journal: Journal, progress: Progress) -> None:
        self._settings, self._journal, self._progress = settings, journal, progress
        self._rules = {rule.name: rule for rule in settings.rules}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="sends", daemon=True)

    def start(self) -> None:
        """Start the thread, if any rule sends."""
        if any(rule.send for rule in self._settings.rules):
            self._thread.start()

    def close(self) -> None:
        """Start no more attempts, and wait a moment for one that is running."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join(5.0)

    def _work(self) -> None:
        while not self._closing.wait(_LOOK):
            for session_id in self._marked():
                try:
                    self._serve(session_id)
                except IcfError as error:  # noqa: PERF203 - usually a disk; the next look tries again
                    self._progress.message(f"{session_id}: sends: {error}")

    def _marked(self) -> list[str]:
        with suppress(OSError):
            return sorted(path.name for path in (self._settings.spool / SEND_MARKS).iterdir())
        return []

    def _serve(self, session_id: str) -> None:
        session = self._journal.session(session_id)
        rule = self._rules.get(session.rule) if session else None
        if session is None or session.deleted or rule is None:
            self._remove_mark(session_id)
            return
        if not session.is_finished:
            return
        while not self._closing.is_set():
            states = settle(rule.send, follow_outcome(rule.send, read_states(session), session.state))
            target = next_target(rule.send, states, time.time())
            if target is not None:
                states = settle(rule.send, self._attempt(session, rule, target, states))
            _write_states(session, states)
            if not any(state.state == "waiting" for state in states):
                self._remove_mark(session_id)
                return
            if target is None:
                return

    def _remove_mark(self, session_id: str) -> None:
        with suppress(OSError):
            _mark(self._settings.spool, session_id).unlink()

    def _attempt(
        self, session: Session, rule: Rule, target: Target, states: Sequence[TargetState]
    ) -> tuple[TargetState, ...]:
        images, problem = send_to_target(self._settings.store, session, rule, target)
        found = []
        for state in states:
            changed = after_attempt(target, state, images, problem, time.time()) if state.name == target.name else state
            found.append(changed)
            if changed is not state:
                if changed.state == "failed":
                    self._journal.add_session_event(
                        session.id, "send-failed", target=target.name, attempts=changed.attempts
                    )
                words = f": {in_one_line(problem)}" if problem else f" ({format_count(images, 'image')})"
                self._progress.message(f"{session.id}: send to {printable(target.name)}: {changed.state}{words}")
        return tuple(found)


def send_to_target(store: Path, session: Session, rule: Rule, target: Target) -> tuple[int, str]:
    """Send what a target gets of a session; returns the number of images that it has, and why it is not all."""
    from icf_utils.sender.images import list_images
    from icf_utils.sender.peer import Peer
    from icf_utils.sender.send import send

    if target.xnat:
        return _upload_to_xnat(store, session, rule, target)
    tls = TlsFiles(*(Path(name) if name else None for name in (target.ca, target.certificate, target.key)))
    peer = Peer(target.host, target.port, target.called_ae, target.calling_ae, tls if target.tls else None)
    sent, problems = 0, []
    try:
        for path in _sources(store, session, rule, target):
            with open_source(path, session.folder) as source:
                try:
                    plan = list_images(source)
                except InputRefused:  # an output without DICOM files
                    continue
                chosen = _matching(source, target)
                images = tuple(image for image in plan.images if chosen is None or image.entry.name in chosen)
                result = send(source, replace(plan, images=images), peer, retries=0)
                sent += result.sent
                problems += [f"{format_count(result.failed, 'image')} failed"] if result.failed else []
    except IcfError as error:
        problems.append(str(error))
    if not sent and not problems:
        problems.append("there are no DICOM files for it")
    return sent, "; ".join(problems)


def _sources(store: Path, session: Session, rule: Rule, target: Target) -> Iterator[Path]:
    """The folders and TARs with the files of a target."""
    place = Visit(store, session.study, session.visit)
    if target.what == "input":
        yield session.input if session.input.exists() else place.archive
        return
    for name in rule.process:
        if place.output(name).is_file():
            yield place.output(name)


def _matching(source: Source, target: Target) -> set[str] | None:
    """The names of the images that meet the target's conditions; ``None`` for all images."""
    if not target.where:
        return None
    tags = {tag for keyword in target.where if (tag := tag_for_keyword(keyword)) is not None}
    files = scan_files(source, frozenset({*tags, SPECIFIC_CHARACTER_SET}))
    return {file.entry.name for file in files if not unmet_condition(file.header, target)}


def _upload_to_xnat(store: Path, session: Session, rule: Rule, target: Target) -> tuple[int, str]:
    """Upload the visit's archive, or the DICOM files of each output as a session; returns images and why not all."""
    from icf_utils.xnat.login import find_xnat_login
    from icf_utils.xnat.upload import upload

    place = Visit(store, session.study, session.visit)
    try:
        login = find_xnat_login(target.xnat, target.xnat_user)
        uploads = _xnat_uploads(place, rule, target)
        found = upload(uploads, xnat_target(target), login, jobs=1).sessions if uploads else []
    except IcfError as error:
        return 0, str(error)
    problems = [one.problem or one.state for one in found if one.state in ("failed", "unproved")]
    images = sum(one.sent for one in found if one.state not in ("failed", "unproved"))
    if not found:
        problems.append("there are no DICOM files for it")
    return images, "; ".join(problems)


def _xnat_uploads(place: Visit, rule: Rule, target: Target) -> list[SessionUpload]:
    from icf_utils.xnat.upload_inputs import VISIT_LABEL, make_output_upload, make_visit_upload

    if target.what == "input":
        return [make_visit_upload(place, target.xnat_subject, target.xnat_session or VISIT_LABEL)]
    made = [name for name in rule.process if place.output(name).is_file() and _has_images(place.output(name))]
    return [make_output_upload(place, name, target.xnat_subject, target.xnat_session) for name in made]


def _has_images(path: Path) -> bool:
    with open_source(path, path.parent) as source:
        return any(file.is_image for file in scan_files(source, frozenset()))
