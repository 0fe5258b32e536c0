"""Verify many visits with several processes, a time limit and the fixity log. Reads the store; writes the log.

With a time limit, visits that were verified longest ago come first. Each visit is logged as soon as it is verified, so
the run after a killed one continues with the others.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from icf_utils.credentials import Credential
from icf_utils.errors import Busy, DepositMissing, IcfError, InvalidSetting, StorageFailure
from icf_utils.fetch.authentication import Authenticator
from icf_utils.fetch.errors import FetchFailure
from icf_utils.metadata.visit_list import VisitLine
from icf_utils.progress import SILENT, Progress
from icf_utils.results import Notice
from icf_utils.settings import Settings, load_settings
from icf_utils.store.elsewhere import find_elsewhere
from icf_utils.store.existing import refuse_no_store
from icf_utils.store.layout import Study, Visit
from icf_utils.store.locks import visit_lock
from icf_utils.store.visit_files import visit_files
from icf_utils.verify.checks import VerifyResult, VisitCheck, finding_from_error
from icf_utils.verify.elsewhere import ElsewhereOptions
from icf_utils.verify.fixity import last_read, record_fixity
from icf_utils.verify.proof import read_proof, write_proof
from icf_utils.verify.shared import check_shared
from icf_utils.verify.verify import CheckOptions, ExaminedVisit, examine_visit, select_visits
from icf_utils.worker_pool import Say, start_workers

#: Processes are worth their start only for a handful of visits each, and more than this many only load the disk.
MOST_JOBS = 64


@dataclass(frozen=True)
class ManyVisitsOptions:
    """How visits are verified. With ``may_ask``, the user is asked for the password of archives that are elsewhere.

    ``jobs`` is the number of processes. With ``seconds``, no visit is begun after that time. ``log``: add to the fixity
    log. The others are those of ``verify_store``.
    """

    jobs: int = 1
    seconds: float | None = None
    log: bool = False
    store_url: str | None = None
    store_id: str | None = None
    fetch: bool = False
    signers: Path | None = None
    may_ask: bool = False


def verify_many_visits(
    store_dir: Path,
    targets: Sequence[str] = (),
    *,
    options: ManyVisitsOptions | None = None,
    settings: Settings | None = None,
    progress: Progress = SILENT,
) -> VerifyResult:
    """Verify the visits of a store, or those that ``targets`` select; raises as ``verify_store`` does.

    ``left`` of the result counts visits for which the time was too short.
    """
    options = options or ManyVisitsOptions()
    if not 1 <= options.jobs <= MOST_JOBS:
        raise InvalidSetting("-j/--jobs", f"expected a number from 1 to {MOST_JOBS}")
    chosen = load_settings(store_dir) if settings is None else settings
    end = None if options.seconds is None else time.monotonic() + options.seconds
    selected = select_visits(store_dir, targets)
    checks = {}
    lines: dict[tuple[str, str], VisitLine | None] = {}
    for study, visit in selected:
        if isinstance(visit, StorageFailure):
            checks[study.study, ""] = VisitCheck(study.study, "", 0, (), (finding_from_error(study.folder, visit),))
    visits = [(study.study, visit) for study, visit in selected if isinstance(visit, str)]
    if not visits and not checks:
        refuse_no_store(store_dir)
    order = visits
    if end is not None:
        order = sorted(visits, key=lambda one: (last_read(Visit(store_dir, *one)), one))
    with progress.task("verify", len(order), "visit") as task:
        for examined in _check_all(store_dir, order, options, chosen, end):
            checks[examined.check.study, examined.check.visit] = examined.check
            lines[examined.check.study, examined.check.visit] = examined.line
            task.advance(1)
    keys = [key for key in checks if not key[1]] + visits
    result = [checks[key] for key in keys if key in checks]
    for name in _whole_studies(visits, checks):
        if (name, "") not in checks and (not targets or name in targets):
            known = {visit: line for (study, visit), line in lines.items() if study == name and line}
            findings, notices = check_shared(Study(store_dir, name), chosen.catalog, known=known)
            if findings or notices:
                result.append(VisitCheck(name, "", 0, (), tuple(findings), notices))
    return VerifyResult(tuple(result), left=sum(one not in checks for one in visits))


def _whole_studies(visits: Sequence[tuple[str, str]], checked: Container[tuple[str, str]]) -> list[str]:
    """The studies all visits of which were checked."""
    left = {study for study, visit in visits if (study, visit) not in checked}
    return [study for study in dict.fromkeys(study for study, _ in visits) if study not in left]


def _check_all(
    root: Path, order: Sequence[tuple[str, str]], options: ManyVisitsOptions, settings: Settings, end: float | None
) -> Iterator[ExaminedVisit]:
    waiting, authenticator = deque(order), Authenticator(may_ask=options.may_ask)
    if min(options.jobs, len(order)) <= 1:
        while waiting and not _is_over(end):
            yield _check_one(Visit(root, *waiting.popleft()), options, settings, authenticator)
        return
    credential = _credential_elsewhere([Visit(root, *one) for one in order], settings, authenticator)
    size = min(options.jobs, len(order))
    perform = partial(_check_in_worker, root, options, settings, credential)
    with closing(start_workers(size, perform, partial(_lost, root), lambda _: None)) as pool:
        while not pool.is_idle or (waiting and not _is_over(end)):
            while waiting and not pool.is_busy and not _is_over(end):
                pool.start(waiting.popleft())
            yield from (examined for _, examined in pool.collect())


def _is_over(end: float | None) -> bool:
    return end is not None and time.monotonic() >= end


def _lost(root: Path, one: tuple[str, str], reason: str) -> ExaminedVisit:
    place = Visit(root, *one)
    problem = StorageFailure(place.archive, "verify", OSError(f"the process that read it {reason}"))
    return ExaminedVisit(VisitCheck(place.study, place.visit, 0, (), (finding_from_error(place.archive, problem),)))


def _credential_elsewhere(
    places: Iterable[Visit], settings: Settings, authenticator: Authenticator
) -> Credential | None:
    """The credential for archives that are elsewhere, found before the processes start: they cannot ask."""
    url = next((url for url in (find_elsewhere(place, settings) for place in places) if url), "")
    if not url.startswith("http"):
        return None
    with suppress(FetchFailure):  # each visit reports it
        login = authenticator.login_for(url)
        return login[0] if login else None
    return None


def _check_in_worker(
    root: Path,
    options: ManyVisitsOptions,
    settings: Settings,
    credential: Credential | None,
    one: tuple[str, str],
    _say: Say,
) -> ExaminedVisit:
    authenticator = Authenticator(may_ask=False)
    authenticator.give(credential)
    return _check_one(Visit(root, *one), options, settings, authenticator)


def _check_one(
    place: Visit, options: ManyVisitsOptions, settings: Settings, authenticator: Authenticator
) -> ExaminedVisit:
    how = CheckOptions(
        options.store_url,
        options.store_id,
        ElsewhereOptions(options.fetch, authenticator),
        options.signers,
        uses_proof=options.log,
    )
    try:
        examined = examine_visit(place, settings, how, SILENT)
    except (StorageFailure, Busy) as error:
        failed = VisitCheck(place.study, place.visit, 0, (), (finding_from_error(place.archive, error),))
        examined = ExaminedVisit(failed)
    except DepositMissing:  # removed meanwhile
        return ExaminedVisit(VisitCheck(place.study, place.visit, 0, (), ()))
    return _logged(place, examined) if options.log else examined


def _logged(place: Visit, examined: ExaminedVisit) -> ExaminedVisit:
    """Record a verification, and what it proved, unless the visit was removed meanwhile: no trace of it must stay."""
    check = examined.check
    try:
        with visit_lock(place, SILENT):
            if visit_files(place):
                record_fixity(place, check.images, len(check.findings))
                if examined.proof and examined.proof != read_proof(place):
                    write_proof(place, examined.proof)
    except IcfError as error:
        notice = Notice("not-logged", place.visit, str(error))
        return replace(examined, check=replace(check, notices=(*check.notices, notice)))
    return examined
