"""The text of job scripts. Pure: nothing is read, written or started here.

A job calls ``icf-utils run`` with a file that lists its visits, so that it does the same as a run on one machine.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from icf_utils.errors import InvalidSetting, printable
from icf_utils.pipeline.model import RunConfig, VisitInput
from icf_utils.settings import RUN_CHECKS
from icf_utils.slurm.model import JobRequest

_NO_RUNTIME = """\
runtime=$(command -v apptainer || command -v singularity) || {
    echo "icf-utils: neither apptainer nor singularity is on the PATH of $(hostname)" >&2
    exit 7
}
"""


def visits_script(
    name: str, folder: Path, shards: Sequence[Sequence[VisitInput]], config: RunConfig, request: JobRequest
) -> str:
    """The script of an array job; each task makes the visits of one shard up to the dataset."""
    options = [
        f"--job-name={name}",
        f"--array=0-{len(shards) - 1}",
        f"--output={_log(folder, 'visits-%a.log')}",
        f"--cpus-per-task={request.cpus}",
        *request.options(),
    ]
    until = "dataset" if config.until == "catalog" else config.until
    words = [*_common(config), "--until", until, *_requested(config), "--jobs", str(request.cpus)]
    shard = f'--shard {shlex.quote(str(folder))}/shard-"$SLURM_ARRAY_TASK_ID".json'
    inputs = [visit.input for visits in shards for visit in visits if visit.input]
    return _script(options, _command(words, shard, config, request, inputs))


def catalog_script(name: str, folder: Path, config: RunConfig, request: JobRequest) -> str:
    """The script of the job that brings a study's visits into its catalog."""
    options = [f"--job-name={name}", f"--output={_log(folder, 'catalog.log')}", *request.options()]
    words = [*_common(config), "--until", "catalog", *_requested(config)]
    shard = f"--catalog-of {shlex.quote(str(folder / 'catalog.json'))}"
    return _script(options, _command(words, shard, config, request, []))


def process_script(name: str, folder: Path, tasks: int, words: Sequence[str], request: JobRequest) -> str:
    """The script of an array job that runs ``icf-utils WORDS`` on one shard of visits for each task."""
    options = [
        f"--job-name={name}",
        f"--array=0-{tasks - 1}",
        f"--output={_log(folder, 'visits-%a.log')}",
        f"--cpus-per-task={request.cpus}",
        *request.options(),
    ]
    program = shlex.join([sys.executable, "-m", "icf_utils.cli.main"])
    shard = f'--shard {shlex.quote(str(folder))}/shard-"$SLURM_ARRAY_TASK_ID".json'
    return _script(options, f"exec {program} {shlex.join(words)} {shard}\n")


def catalog_dependency(after: Iterable[str]) -> list[str]:
    """The options by which a catalog job waits for the visits' jobs and for other catalog jobs of the study.

    The dependency is ``afterany``, not ``afterok``: a visit that fails must not keep the others out of the catalog. The
    catalog job leaves out what was not made.
    """
    waits = [f"afterany:{job}" for job in after]
    return [f"--dependency={','.join([*waits, 'singleton'])}", "--kill-on-invalid-dep=yes"]


def _script(options: Sequence[str], command: str) -> str:
    lines = "".join(f"#SBATCH {_quoted(option)}\n" for option in [*options, "--open-mode=append"])
    return f"#!/bin/sh\n{lines}{command}"


def _quoted(option: str) -> str:
    name, _, value = option.partition("=")
    return f'{name}="{value}"' if " " in value else option


def _log(folder: Path, name: str) -> str:
    """A log's path as SLURM expects it: a literal ``%`` is doubled."""
    return f"{str(folder).replace('%', '%%')}/{name}"


def _common(config: RunConfig) -> list[str]:
    """The options that repeat the run's configuration: settings and environment may differ where the job runs."""
    options = config.options
    words = ["run", "--store-dir", str(config.root), "--timezone", options.time_zone]
    words += ["--settle", f"{options.settle:.0f}"] if options.settle else []
    words += [word for check in RUN_CHECKS if check not in options.refuse for word in ("--allow", check)]
    for option, value in (
        ("--store-url", options.store_url),
        ("--store-id", options.store_id),
        ("--tags", options.tags and os.path.abspath(options.tags)),
    ):
        words += [option, str(value)] if value is not None else []
    words += ["--replace", options.replace_reason] if options.replace_reason else []
    return [*words, *(["--strip-components", str(options.strip)] if options.strip else [])]


def _requested(config: RunConfig) -> list[str]:
    return [*(["--always-make"] if config.always_make else []), *(["--paranoid"] if config.paranoid else [])]


def _command(words: Sequence[str], shard: str, config: RunConfig, request: JobRequest, inputs: Sequence[Path]) -> str:
    if request.container is None:
        program = shlex.join([sys.executable, "-m", "icf_utils.cli.main"])
        return f"exec {program} {shlex.join(words)} {shard}\n"
    binds = " ".join(f"--bind {shlex.quote(bind)}" for bind in container_binds(config, inputs))
    program = f'"$runtime" exec --no-home --pwd / {binds} ${{TMPDIR:+--bind "$TMPDIR"}}'
    image = shlex.quote(str(request.container))
    return f"{_NO_RUNTIME}exec {program} \\\n    {image} icf-utils {shlex.join(words)} {shard}\n"


def container_binds(config: RunConfig, inputs: Sequence[Path]) -> list[str]:
    """The folders that the container sees: those of the inputs, read-only, then the store, which may lie within one
    of them.
    """
    reads = [str(path.parent) for path in inputs]
    if config.options.tags:
        reads.append(os.path.dirname(os.path.abspath(config.options.tags)))
    # links are followed inside the container, so their targets must be bound as well
    reads += [os.path.dirname(os.path.realpath(path)) for path in inputs]
    store = [str(config.root)]
    if (real := os.path.realpath(config.root)) not in store:
        store.append(real)
    folders = [folder for folder in _common_folders(reads) if folder not in store]
    for folder in (*folders, *store):
        if ":" in folder or "," in folder:
            raise InvalidSetting("--container", f"'{printable(folder)}' cannot be bound: its name contains ':' or ','")
    return [*(f"{folder}:{folder}:ro" for folder in folders), *store]


def _common_folders(folders: Iterable[str]) -> list[str]:
    """A few folders that contain all the given ones: one for each folder of the root."""
    groups: dict[str, list[str]] = {}
    for folder in sorted(set(folders)):
        groups.setdefault(folder.split("/")[1], []).append(folder)
    return [os.path.commonpath(group) for group in groups.values()]


def check_path(path: Path) -> None:
    """Refuse a store whose path cannot be written in a job script."""
    if any(char in str(path) for char in '"\\\n'):
        raise InvalidSetting("--store-dir", f"job scripts cannot contain this path: '{printable(path)}'")
