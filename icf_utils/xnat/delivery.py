"""One session's way into XNAT, so that it arrives exactly once. Sends, looks, and decides by what it has seen.

An import that ends without an answer, or with an error, may have been done all the same, wholly or in part. So before
anything is sent again, XNAT is asked what there is; and after every success too, since XNAT puts what it is asked to
put into a project that it does not know, or that one may not write to, into another one without a word.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from icf_utils.xnat import routes
from icf_utils.xnat.client import PASSING, Answer, ConnectionLost, NoAnswerInTime
from icf_utils.xnat.ledger import Ledger
from icf_utils.xnat.parcels import Body, Parcel
from icf_utils.xnat.routes import Sighting
from icf_utils.xnat.values import Outcome
from icf_utils.xnat.watching import NOT_SHOWN, Watch

#: After these answers another try may succeed. 401: the login session was ended, twice in a row.
_TRY_AGAIN = (401, 409, *PASSING)

#: How often a session that XNAT was at work on is looked for again.
_LOOKS = 3

_LONGEST_PAUSE = 30.0


@dataclass
class Delivery:
    """One session under way. ``known`` are the sightings of it from before it was first sent."""

    watch: Watch
    parcel: Parcel
    body: Body
    ledger: Ledger
    known: tuple[Sighting, ...] = ()
    answers: list[str] = field(default_factory=list)

    def outcome(self, state: str, problem: str = "", held: int | None = None, uris: Sequence[str] = ()) -> Outcome:
        contents = self.body.contents
        return Outcome(
            subject=self.parcel.subject,
            label=self.parcel.label,
            state=state,  # type: ignore[arg-type]
            project=self.watch.target.project,
            sent=len(contents.images),
            held=held,
            size=len(self.body),
            tries=len(self.answers),
            uris=tuple(uris),
            answers=tuple(self.answers),
            problem=problem,
            left_out=tuple(item.name for item in contents.others),
        )

    def run(self) -> Outcome:
        """Send until it is there, it is certain that it will not be, or the tries are used up."""
        target, result = self.watch.target, None
        for at in range(target.retries + 1):
            if at:
                self.watch.sleep(target.pause * 2 ** (at - 1))
            seen = self._new()
            result = self._arrived(seen)
            if result:
                return result
            answer = self._send("append" if seen and not target.overwrite else target.overwrite)
            if answer and answer.status == 200:
                return self._checked(routes.answered_uris(answer.text))
            if answer and answer.status not in _TRY_AGAIN:
                break
        return self._arrived(self._new(settle=True)) or self.outcome("failed", self._why())

    def _send(self, overwrite: str) -> Answer | None:
        """One import; ``None`` where there was no answer."""
        self.watch.check()
        subject, label = self.parcel.subject, self.parcel.label
        keys = [item.key for item in self.known]
        self.ledger.note(subject, label, "sending", fingerprint=self.body.contents.fingerprint, known=keys)
        query = routes.import_query(self.watch.target, subject, label, self.body.has_others, overwrite)
        try:
            answer = self.watch.xnat.request("POST", routes.IMPORT, query, self.body)
        except ConnectionLost as error:
            self.answers.append(error.problem)
            self._linger(isinstance(error, NoAnswerInTime))
            return None
        self.answers.append(str(answer))
        return answer

    def _linger(self, was_silent: bool) -> None:
        """XNAT may be at work on the upload and show nothing of it yet: give it as long again as it was silent for.

        What goes directly into the archive may show as late as after an answer.
        """
        target = self.watch.target
        seconds = max(target.timeout if was_silent else 0.0, target.patience if target.direct_archive else 0.0)
        end, pause = time.monotonic() + seconds, target.pause
        while time.monotonic() < end and not self._arrived(self._new()):
            self.watch.sleep(min(pause, max(0.0, end - time.monotonic()), _LONGEST_PAUSE))
            pause *= 2

    # -- what there is ------------------------------------------------------------------------------------------------

    def _new(self, settle: bool = False) -> tuple[Sighting, ...]:
        """What has come of this session since it was first sent; waits while XNAT is at work on it."""
        if not self.answers and not settle and not self.ledger_says_sending:
            return ()
        for _ in range(_LOOKS):
            fresh = self._fresh()
            unfinished = [item for item in fresh if item.at_work or item.status == routes.INTERRUPTED]
            if not unfinished:
                return fresh
            for item in unfinished:
                self._finish(item)
        return self._fresh()

    def _fresh(self) -> tuple[Sighting, ...]:
        known = {item.key for item in self.known}
        found = self.watch.find(self.parcel.subject, self.parcel.label)
        return tuple(item for item in found if item.key not in known)

    @property
    def ledger_says_sending(self) -> bool:
        return self.ledger.last(self.parcel.subject, self.parcel.label).get("state") == "sending"

    def _finish(self, found: Sighting) -> None:
        """Wait for XNAT; ask it to look at what there is of a session that broke off, or was left RECEIVING.

        That commit answers 200, or 301 where the project archives by itself, or 409 while the session is locked; what
        has become of the session is then looked up, whatever the answer was.
        """
        if self.watch.settled(found.uri).status not in (routes.INTERRUPTED, "RECEIVING"):
            return
        with suppress(ConnectionLost):
            answer = self.watch.xnat.request("POST", f"/data{found.uri}", {"action": "commit"})
            if answer.status in (200, 301):
                self.watch.settled(found.uri)

    def _arrived(self, seen: Sequence[Sighting]) -> Outcome | None:
        """Whether what has come is the whole session, where it should be."""
        whole = [item for item in seen if item.files is not None]
        held = sum(item.files or 0 for item in whole)
        if not whole or len(whole) < len(seen) or not self._is_enough(held) or not self._is_placed(whole):
            return None
        return self.outcome("uploaded", held=held, uris=[item.uri for item in whole])

    def is_there(self, found: Sequence[Sighting], held: int) -> bool:
        """Whether what XNAT shows is ``held`` images, where they should be."""
        return bool(found) and self._is_placed(found) and sum(item.files or 0 for item in found) == held

    def look_again(self, found: Sequence[Sighting]) -> tuple[Sighting, ...]:
        """What XNAT shows now; where it is at work on it, when that is over, or patience is."""
        for item in found:
            if item.at_work:
                self.watch.settled(item.uri)
        return self.watch.find(self.parcel.subject, self.parcel.label)

    def _is_enough(self, held: int) -> bool:
        """As many files as were sent; beside those that were there if they were to be kept."""
        sent = len(self.body.contents.images)
        if self.watch.target.overwrite != "append":
            return held == sent
        before = sum(item.files or 0 for item in self.known)
        return max(before, sent) <= held <= before + sent

    def _is_placed(self, found: Sequence[Sighting]) -> bool:
        """In the archive, or ready in the prearchive if that was asked for; a project may archive it from there."""
        places = ("ARCHIVED",) if self.watch.target.dest == "archive" else ("READY", "ARCHIVED")
        return all(item.status in places for item in found)

    # -- after a success ----------------------------------------------------------------------------------------------

    def _checked(self, uris: tuple[str, ...]) -> Outcome:
        """Hold XNAT's answer against what was asked: the project, the place, the number of files."""
        target = self.watch.target
        elsewhere = [uri for uri in uris if routes.project_of(uri) not in ("", target.project)]
        if not uris or elsewhere:
            where = ", ".join(sorted({routes.project_of(uri) for uri in elsewhere}))
            problem = (
                f"XNAT put it into project '{where}' instead of '{target.project}'; have it moved or deleted there"
            )
            return self.outcome("failed", problem if uris else "XNAT's answer names no session; look for it", uris=uris)
        known = {item.key for item in self.known}
        subject, label = self.parcel.subject, self.parcel.label
        found = [self.watch.answered(uri, subject, label, known) for uri in uris]
        if hidden := [item.uri for item in found if item.status == NOT_SHOWN]:
            return self.outcome("failed", _late(hidden, target.patience), uris=uris)
        held = sum(item.files or 0 for item in found) if all(item.files is not None for item in found) else None
        if not self._is_placed(found):
            states = ", ".join(sorted({item.status for item in found}))
            wanted = "in the archive" if target.dest == "archive" else "READY in the prearchive"
            return self.outcome("failed", f"expected it {wanted}, found it {states}", held, uris)
        if held is None or not self._is_enough(held):
            sent = len(self.body.contents.images)
            has = "does not list its files" if held is None else f"has {held}"
            return self.outcome("failed", f"{sent} images were sent, and XNAT {has}", held, uris)
        return self.outcome("uploaded", held=held, uris=uris)

    def _why(self) -> str:
        last = self.answers[-1] if self.answers else "nothing was sent"
        left = self.watch.find(self.parcel.subject, self.parcel.label)
        has = f"it has {places_of(left)}" if left else "it has nothing of this session"
        return f"XNAT's last answer: {last}; {has}"


def _late(uris: Sequence[str], patience: float) -> str:
    remedy = "look for it in XNAT, then run the command again: it counts what is there, and else sends it anew"
    return (
        f"XNAT answered that it has {', '.join(uris)}, and has not shown it for {patience:g} s (--patience); {remedy}"
    )


def places_of(found: Sequence[Sighting]) -> str:
    return ", ".join(f"{item.uri} ({item.status}, {_files(item)})" for item in found)


def _files(item: Sighting) -> str:
    return "files not counted" if item.files is None else f"{item.files} images"
