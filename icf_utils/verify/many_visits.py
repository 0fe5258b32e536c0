"""Verify many visits with several processes, a time limit and the fixity log. Reads the store; writes the log.

With a time limit, visits that were verified longest ago come first. Each visit is logged as soon as it is verified, so
the run after a killed one continues with the others.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path

from icf_utils.credentials import Credential
from icf_utils.errors import Busy, DepositMissing, IcfError, InvalidSetting, StorageFailure
from icf_utils.fetch.authentication import Authenticator
from icf_utils.fetch.errors import FetchFailure
from icf_utils.progress import SILENT, Progress
from icf_utils.results import Notice
from icf_utils.settings import Settings, load_settings
from icf_utils.store.elsewhere import find_elsewhere
from icf_utils.store.existing import refuse_no_store
from icf_utils.store.layout import Study, Visit
from icf_utils.verify.checks import VerifyResult, VisitCheck, finding_from_error
from icf_utils.verify.elsewhere import Elsewhere
from icf_utils.verify.fixity import last_read, record_fixity
from icf_utils.verify.shared import check_shared
from icf_utils.verify.verify import check_visit, select_visits
from icf_utils.worker_process import WorkerProcess

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
        for check in _check_all(store_dir, order, options, chosen, end):
            checks[check.study, check.visit] = check
            task.advance(1)
    keys = [key for key in checks if not key[1]] + visits
    result = [checks[key] for key in keys if key in checks]
    for name in dict.fromkeys(name for name, _ in visits):
        is_whole = all(one in checks for one in visits if one[0] == name)
        if is_whole and (name, "") not in checks and (not targets or name in targets):
            findings, notices = check_shared(Study(store_dir, name), chosen.catalog)
            if findings or notices:
                result.append(VisitCheck(name, "", 0, (), tuple(findings), notices))
    return VerifyResult(tuple(result), left=sum(one not in checks for one in visits))


def _check_all(
    root: Path, order: Sequence[tuple[str, str]], options: ManyVisitsOptions, settings: Settings, end: float | None
) -> Iterator[VisitCheck]:
    waiting, authenticator = deque(order), Authenticator(may_ask=options.may_ask)
    if min(options.jobs, len(order)) <= 1:
        while waiting and not _is_over(end):
            yield _check_one(Visit(root, *waiting.popleft()), options, settings, authenticator)
        return
    credential = _credential_elsewhere([Visit(root, *one) for one in order], settings, authenticator)
    work = root, options, settings, credential
    workers = [WorkerProcess(_work, *work) for _ in range(min(options.jobs, len(order)))]
    busy: dict[Connection, tuple[WorkerProcess, tuple[str, str]]] = {}
    idle = list(workers)
    try:
        while busy or (waiting and not _is_over(end)):
            while idle and waiting and not _is_over(end):
                worker, one = idle.pop(), waiting.popleft()
                worker.connection.send(one)
                busy[worker.connection] = worker, one
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                worker, one = busy.pop(connection)
                try:
                    yield connection.recv()
                    idle.append(worker)
                except EOFError:
                    worker.join()
                    workers.remove(worker)
                    yield _lost(Visit(root, *one), worker.exit_reason)
                    if not workers:
                        workers = [WorkerProcess(_work, *work)]
                        idle = list(workers)
    finally:
        for worker in workers:
            worker.ask_to_end()
        for worker in workers:
            worker.join()


def _is_over(end: float | None) -> bool:
    return end is not None and time.monotonic() >= end


def _lost(place: Visit, reason: str) -> VisitCheck:
    problem = StorageFailure(place.archive, "verify", OSError(f"the process that read it {reason}"))
    return VisitCheck(place.study, place.visit, 0, (), (finding_from_error(place.archive, problem),))


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


def _work(
    connection: Connection, root: Path, options: ManyVisitsOptions, settings: Settings, credential: Credential | None
) -> None:
    """What a process does: verify the visits that it is sent until the other end is closed."""
    authenticator = Authenticator(may_ask=False)
    authenticator.give(credential)
    with suppress(EOFError):
        while True:
            connection.send(_check_one(Visit(root, *connection.recv()), options, settings, authenticator))


def _check_one(
    place: Visit, options: ManyVisitsOptions, settings: Settings, authenticator: Authenticator
) -> VisitCheck:
    try:
        check = check_visit(
            place,
            settings,
            store_url=options.store_url,
            store_id=options.store_id,
            elsewhere=Elsewhere(options.fetch, authenticator),
            signers=options.signers,
            progress=SILENT,
        )
    except (StorageFailure, Busy) as error:
        check = VisitCheck(place.study, place.visit, 0, (), (finding_from_error(place.archive, error),))
    except DepositMissing:  # removed meanwhile
        return VisitCheck(place.study, place.visit, 0, (), ())
    if not options.log:
        return check
    try:
        record_fixity(place, check.images, len(check.findings))
    except IcfError as error:
        notice = Notice("not-logged", place.visit, str(error))
        return replace(check, notices=(*check.notices, notice))
    return check
