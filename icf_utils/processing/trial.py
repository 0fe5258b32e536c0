"""Try a processing on a visit: everything as for a deposit, and nothing deposited. Runs the program."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from icf_utils.errors import InvalidSetting, printable, storage_errors
from icf_utils.outputs.packing import OutputListing
from icf_utils.processing.decide import decide
from icf_utils.processing.execute import ProcessConfig, execute
from icf_utils.processing.local import scratch_folder
from icf_utils.processing.model import OutcomeState
from icf_utils.processing.supervisor_pool import SupervisorPool
from icf_utils.store.layout import Visit

#: Bytes of the end of a log that are shown.
_SHOWN = 4000


@dataclass(frozen=True)
class Trial:
    """What a trial found. ``log`` is the end of what the program printed, ``files`` its output with sizes in bytes."""

    visit: str
    processing: str
    state: OutcomeState
    code: str
    message: str
    log: str
    files: tuple[tuple[str, int], ...]


def try_processing(config: ProcessConfig, study: str, visit: str, keep: Path | None = None) -> Trial:
    """Run the program on one visit and say how it ended; ``keep`` is a new folder that gets a copy of the output.

    Raises what :func:`icf_utils.processing.decide.decide` and the start of the program raise.
    """
    if keep is not None and keep.exists():
        raise InvalidSetting("--keep", f"'{printable(keep)}' exists already; name a new folder")
    place = Visit(config.root, study, visit)
    recipe = decide(place, config.processing, config.arguments, always=True).recipe
    with scratch_folder() as scratch:
        outcome, listing, remarks = execute(config.processing, place, recipe, scratch, SupervisorPool())
        log = _end_of(scratch.log) + remarks
        if keep is not None:
            with storage_errors(keep, "write"):
                _copy(scratch.output, listing, keep)
    files = listing.files if listing else ()
    return Trial(f"{study}/{visit}", config.processing.name, outcome.state, outcome.code, outcome.message, log, files)


def _end_of(log: Path) -> str:
    with storage_errors(log, "read"):
        data = log.read_bytes()
    text = data[-_SHOWN:].decode("utf-8", "backslashreplace")
    return "".join(f"{printable(line)}\n" for line in text.splitlines())


def _copy(output: Path, listing: OutputListing | None, keep: Path) -> None:
    keep.mkdir()
    for path, _ in listing.files if listing else ():
        target = keep / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(os.path.realpath(output / path), target)
