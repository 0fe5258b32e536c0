"""What each command prints with ``--json``, as types: the contract with scripts, which ``icf-utils schema`` shows.

One object a command: ``command``, ``ok``, and ``result`` or, where the command failed, ``exit_code`` and ``error``.
Most results are the values that the Python functions return; what only the command line puts together is typed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from icf_utils.json_schema import Schema, schema_of
from icf_utils.schemas import file_schema, file_schemas
from icf_utils.settings import Settings

if TYPE_CHECKING:
    from icf_utils.curation.refresh import RefreshResult
    from icf_utils.curation.remove import RemoveResult
    from icf_utils.doctor.components import Component
    from icf_utils.export.model import ExportResult
    from icf_utils.metadata.study_uids import StudyListing
    from icf_utils.pipeline.model import RunResult
    from icf_utils.pipeline.status import VisitStatus
    from icf_utils.processing.run import PlannedProcessing, ProcessRunResult
    from icf_utils.processing.status import ProcessingStatus
    from icf_utils.receiver.client import Download
    from icf_utils.receiver.explain import Explanation
    from icf_utils.results import Notice
    from icf_utils.retrieve.model import Failure
    from icf_utils.retrieve.plan import SeriesLine, Stats
    from icf_utils.sender.model import SendResult
    from icf_utils.slurm.model import Submission
    from icf_utils.slurm.submit import JobScript
    from icf_utils.slurm.wait import UnfinishedVisit
    from icf_utils.verify.fixity import FixitySummary
    from icf_utils.verify.sign import SignResult
    from icf_utils.xnat.receiver_routing import ImageRoute


class StagePlan(TypedDict):
    """A stage of a visit: whether it would run, and why."""

    stage: str
    runs: bool
    reasons: Sequence[str]


class PlannedVisit(TypedDict):
    """A visit of ``run --dry-run``; ``problem``: why the run would refuse it."""

    study: str
    visit: str
    stages: Sequence[StagePlan]
    problem: str


class RunPlan(TypedDict):
    """What ``run --dry-run`` would do."""

    dry_run: Literal[True]
    visits: Sequence[PlannedVisit]


class SlurmJobs(TypedDict):
    """The jobs that ``run --slurm`` submitted."""

    slurm: Literal[True]
    jobs: Sequence[Submission]


class SlurmJobsDone(SlurmJobs):
    """The jobs that ``run --slurm --wait`` submitted, and what they left undone."""

    failed: Sequence[UnfinishedVisit]


class SlurmScripts(TypedDict):
    """The scripts that ``run --slurm --dry-run`` would submit."""

    dry_run: Literal[True]
    scripts: Sequence[JobScript]


class NotTakenIn(TypedDict):
    """A folder or a visit that a command refused."""

    subject: str
    reason: str


class RunSlurmJobs(SlurmJobs):
    """As :class:`SlurmJobs`, and the visits that were refused."""

    refused: Sequence[NotTakenIn]


class RunSlurmJobsDone(SlurmJobsDone):
    """As :class:`SlurmJobsDone`, and the visits that were refused."""

    refused: Sequence[NotTakenIn]


class RunSlurmScripts(SlurmScripts):
    """As :class:`SlurmScripts`, and the visits that would be refused."""

    refused: Sequence[NotTakenIn]


class StoreStatus(TypedDict):
    """The progress of a store's visits: counts by study, stage and state, then each visit."""

    studies: Mapping[str, Mapping[str, Mapping[str, int]]]
    visits: Sequence[VisitStatus]
    processings: Sequence[ProcessingStatus]


class RunAndProcessings(TypedDict):
    """What ``run`` did, and the processings after it."""

    run: RunResult
    processings: Sequence[ProcessRunResult]


class ProcessingPlan(TypedDict):
    """What ``process --dry-run`` would do."""

    dry_run: Literal[True]
    visits: Sequence[PlannedProcessing]


class RetrieveStats(TypedDict):
    """What ``retrieve --stats`` found."""

    stats: Stats
    failures: Sequence[Failure]
    notices: Sequence[Notice]


class RetrievePlan(TypedDict):
    """What ``retrieve --dry-run`` found, one line a series."""

    series: Sequence[SeriesLine]
    failures: Sequence[Failure]
    notices: Sequence[Notice]


class StudyUids(TypedDict):
    """The studies of each path, and whether all are one."""

    paths: Sequence[StudyListing]
    same: bool
    notices: Sequence[Notice]


class ReceiverRules(TypedDict):
    """The rules of checked settings."""

    rules: Sequence[str]


class RuleExplanation(TypedDict):
    """Which rule takes a file: what each rule does with it, and the name of the one that takes it."""

    rules: Sequence[str]
    explanations: Sequence[Explanation]
    taken_by: str | None


class IngestRest(TypedDict):
    """What ``ingest`` says beyond its visits."""

    refused: Sequence[NotTakenIn]
    excluded: Mapping[str, Sequence[str]]
    skipped: Sequence[Notice]


class IngestRow(TypedDict):
    """A visit of ``ingest --dry-run``; ``size`` in bytes, ``problem`` why it would be refused."""

    study: str
    visit: str
    folder: str
    files: int
    size: int
    excluded: Sequence[str]
    state: Literal["to do", "up to date", "refused"]
    problem: str


class IngestPlanned(IngestRest):
    """What ``ingest --dry-run`` would do."""

    dry_run: Literal[True]
    visits: Sequence[IngestRow]


class Ingested(IngestRest):
    """What ``ingest`` did."""

    run: RunResult


class RefreshFailure(TypedDict):
    """A visit that could not be refreshed."""

    visit: str
    message: str


class StoreFixity(TypedDict):
    """When the visits of each study were last read, with ``status --fixity``."""

    studies: Sequence[FixitySummary]


class VisitsSigned(TypedDict):
    """What ``sign`` did for each visit."""

    visits: Sequence[SignResult]


class VisitsExported(TypedDict):
    """What ``export`` made, and the visits for which it failed."""

    visits: Sequence[ExportResult]
    failed: Sequence[RefreshFailure]


class VisitsRefreshed(TypedDict):
    """What ``visit refresh`` did for each visit."""

    visits: Sequence[RefreshResult]
    failed: Sequence[RefreshFailure]


class VisitRemoved(TypedDict):
    """What ``visit remove`` removed: of the store, and the receiver's sessions."""

    visit: RemoveResult
    sessions: Sequence[str]


class SessionFailure(TypedDict):
    """A session for which a command failed."""

    session: str
    message: str


class SessionList(TypedDict):
    """Sessions of a receiver, each as its page ``/sessions/ID.json`` shows it."""

    sessions: Sequence[Mapping[str, Any]]


class RejectedAssociations(TypedDict):
    """The associations that a receiver rejected last, each as ``/associations/rejected`` lists it."""

    rejected: Sequence[Mapping[str, Any]]


class SessionEvents(TypedDict):
    """Deliveries of events, each as ``/events`` lists it."""

    events: Sequence[Mapping[str, Any]]


class EventsQueued(TypedDict):
    """How many deliveries that had failed were queued again."""

    queued: int


class SessionsDeleted(TypedDict):
    """What became of the sessions that were named."""

    deleted: Sequence[str]
    failed: Sequence[SessionFailure]


class SessionsQueued(TypedDict):
    """What became of the sessions that were named."""

    queued: Sequence[str]
    failed: Sequence[SessionFailure]


class SessionQuarantine(TypedDict):
    """The images in a session's quarantine, each as ``/sessions/ID/quarantine`` lists it."""

    session: str
    images: Sequence[Mapping[str, Any]]


class AcceptedQuarantine(TypedDict):
    """A session whose quarantine was accepted, and the one with the corrected visit."""

    session: str
    new: str


class SessionsAccepted(TypedDict):
    """What became of the sessions that were named."""

    accepted: Sequence[AcceptedQuarantine]
    failed: Sequence[SessionFailure]


class SessionsDropped(TypedDict):
    """What became of the sessions that were named."""

    dropped: Sequence[str]
    failed: Sequence[SessionFailure]


class SessionDownloads(TypedDict):
    """The files that were downloaded."""

    downloads: Sequence[Download]
    failed: Sequence[SessionFailure]


class SessionLog(TypedDict):
    """The log of a session."""

    id: str
    log: str


class RoutesPlanned(TypedDict):
    """Where XNAT's receiver would put the images; the damaged ones by name and reason."""

    routes: Sequence[ImageRoute]
    damaged: Sequence[tuple[str, str]]


class RoutesSent(TypedDict):
    """Where XNAT's receiver puts the images, and what became of each."""

    routes: Sequence[ImageRoute]
    sent: SendResult


class CompletionScript(TypedDict):
    """What a shell loads to complete commands."""

    script: str


class Version(TypedDict):
    """What ``icf-utils --version`` says; its ``command`` is empty."""

    version: str


class LongVersion(Version):
    """What ``icf-utils --version -v`` says: the versions of what icf-utils uses, and which extras are complete."""

    components: Sequence[Component]
    extras: Mapping[str, bool]


class SchemaNames(TypedDict):
    """The names that ``schema`` knows."""

    names: Sequence[str]


class OneSchema(TypedDict):
    """A JSON Schema."""

    schema: Mapping[str, Any]


class ErrorDetails(TypedDict):
    """``type`` is the name of a class of ``icf_utils.errors``."""

    type: str
    message: str


def result_types() -> dict[str, Any]:
    """The type of each command's ``result``, by the words of the command."""
    from icf_utils.archive.stage import ArchiveResult
    from icf_utils.catalog.index_page import IndexResult
    from icf_utils.catalog.rebuild import CatalogBuildResult
    from icf_utils.catalog.stage import CatalogResult
    from icf_utils.curation.history import HistoryResult
    from icf_utils.curation.rename import RenameResult
    from icf_utils.curation.replace import ReplaceResult
    from icf_utils.dataset.cloning import CloneResult
    from icf_utils.dataset.special_remote.configure import ConfiguredClone
    from icf_utils.dataset.stage import DatasetResult
    from icf_utils.doctor.model import Examination
    from icf_utils.metadata.stage import MetadataResult
    from icf_utils.pipeline.model import RunResult
    from icf_utils.processing.run import ProcessRunResult
    from icf_utils.processing.trial import Trial
    from icf_utils.retrieve.get import GetPlan, GetResult
    from icf_utils.retrieve.job import RetrieveResult
    from icf_utils.sender.model import SendResult
    from icf_utils.store.init_store import InitResult
    from icf_utils.verify.repair import RepairResult
    from icf_utils.verify.verify import VerifyResult
    from icf_utils.xnat.inbox import InboxPlan, InboxResult
    from icf_utils.xnat.model import UploadResult
    from icf_utils.xnat.prearchive import PrearchivePlan, PrearchiveResult

    return {
        "make_studyvisit_archive": ArchiveResult,
        "deposit_visit_metadata": MetadataResult,
        "deposit_visit_dataset": DatasetResult,
        "catalogify_studyvisit_from_meta": CatalogResult,
        "catalog build": CatalogBuildResult | IndexResult,
        "run": RunResult | RunAndProcessings | RunPlan | RunSlurmJobsDone | RunSlurmJobs | RunSlurmScripts,
        "process": ProcessRunResult | ProcessingPlan | Trial | SlurmJobsDone | SlurmJobs | SlurmScripts,
        "status": StoreStatus | StoreFixity,
        "verify": VerifyResult | RepairResult,
        "sign": VisitsSigned,
        "visit replace": ReplaceResult,
        "visit merge": ReplaceResult,
        "visit rename": RenameResult | None,
        "visit history": HistoryResult,
        "visit refresh": VisitsRefreshed,
        "visit remove": VisitRemoved,
        "retrieve": RetrieveResult | RetrieveStats | RetrievePlan,
        "export": VisitsExported,
        "clone": CloneResult,
        "get": GetResult | GetPlan,
        "configure-clone": ConfiguredClone,
        "study-uid": StudyUids,
        "send": SendResult,
        "receive": ReceiverRules | RuleExplanation,
        "ingest": Ingested | IngestPlanned,
        "sessions": SessionList | RejectedAssociations,
        "sessions get": SessionDownloads,
        "sessions log": SessionLog,
        "sessions retry": SessionsQueued,
        "sessions release": SessionsQueued,
        "sessions rerun": SessionsQueued,
        "sessions resend": SessionsQueued,
        "sessions events": SessionEvents | EventsQueued,
        "sessions delete": SessionsDeleted,
        "sessions quarantine list": SessionList,
        "sessions quarantine show": SessionQuarantine,
        "sessions quarantine get": SessionDownloads,
        "sessions quarantine accept": SessionsAccepted,
        "sessions quarantine drop": SessionsDropped,
        "xnat upload": UploadResult,
        "xnat send": RoutesSent | RoutesPlanned,
        "doctor": Examination,
        "init": InitResult,
        "completion": CompletionScript,
        "schema": SchemaNames | OneSchema,
        "version": Version | LongVersion,
        "xnat prearchive": PrearchiveResult | PrearchivePlan | InboxResult | InboxPlan,
    }


#: Settings, which have a schema as well: what ``icf.toml`` and the receiver's file may say.
_SETTINGS = ("icf.toml", "receiver.toml")


def schema_names() -> list[str]:
    """Everything that :func:`find_schema` knows: commands, files, settings."""
    return [*result_types(), *file_schemas(), *_SETTINGS]


def find_schema(name: str) -> Schema:
    """A schema by its name. Raises ``KeyError`` for one that is not in :func:`schema_names`."""
    if name == "icf.toml":
        return schema_of(Settings, closed=True, defaults=True)
    if name == "receiver.toml":
        from icf_utils.receiver.settings import ReceiverFile

        return schema_of(ReceiverFile, closed=True, defaults=True)
    return file_schema(name) if name in file_schemas() else output_schema(name)


def output_schema(command: str, *, closed: bool = False) -> Schema:
    """The schema of all that a command prints with ``--json``. Raises ``KeyError`` for what is not in the list."""
    kind = result_types()[command]
    found = schema_of(kind, closed=closed)
    dialect, definitions = found.pop("$schema"), found.pop("$defs")
    words = "" if command == "version" else command
    done = {"properties": {"command": {"const": words}, "ok": {"type": "boolean"}, "result": found}}
    failure = {
        "command": {"type": "string"},
        "ok": {"const": False},
        "exit_code": {"type": "integer", "minimum": 1},
        "error": {"$ref": "#/$defs/ErrorDetails"},
    }
    definitions |= schema_of(ErrorDetails, closed=closed)["$defs"]
    return {
        "$schema": dialect,
        "title": f"icf-utils {command} --json",
        "type": "object",
        "oneOf": [
            {**done, "required": ["command", "ok", "result"]},
            {"properties": failure, "required": list(failure)},
        ],
        "$defs": dict(sorted(definitions.items())),
    }
