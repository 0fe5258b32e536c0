"""SLURM's own commands: sbatch, squeue, sinfo. Starts these processes; reads and writes no files."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from icf_utils.child_environment import user_environment
from icf_utils.errors import ClusterRefused, MissingRequirement
from icf_utils.slurm.model import QueuedTask

_REMEDY = (
    "run this on a host from which jobs are submitted (a login node, perhaps after 'module load slurm'), "
    "or leave out --slurm to run on this machine"
)

#: Words in SLURM's message, and what to do. The first match counts.
_ADVICE = (
    ("partition", "Choose another --partition."),
    (
        "job submit limit",
        "You may have only so many jobs and array tasks in the queue: choose a smaller --array-size, or repeat this "
        "command when earlier jobs have ended. 'sacctmgr show assoc' and 'sacctmgr show qos' show the limits.",
    ),
    ("account", "Name an account that you may use with --account."),
    ("array", "Choose a smaller --array-size."),
    ("memory", "Choose a smaller --mem, or a --partition with larger nodes."),
    (
        "node configuration",
        "No node has these resources: choose a smaller --mem or -j, or another --partition.",
    ),
    ("time", "Choose a --time that the partition allows, as in 02:00:00."),
    ("contact slurm controller", "SLURM does not respond; try again later, or ask the cluster's administrators."),
)
_OTHERWISE = "Correct the options, or ask the cluster's administrators."


def submit_script(script: Path, options: Sequence[str]) -> str:
    """Submit a script; returns the job's number.

    Raises :class:`~icf_utils.errors.MissingRequirement` without sbatch, and
    :class:`~icf_utils.errors.ClusterRefused` with SLURM's own message.
    """
    printed = _run(["sbatch", "--parsable", *options, str(script)])
    return printed.strip().splitlines()[-1].partition(";")[0]


def list_queue(names: Sequence[str]) -> list[QueuedTask]:
    """List the jobs of these names that SLURM has not finished. Raises as :func:`submit_script` does."""
    if not names:
        return []
    printed = _run(["squeue", "--noheader", "--array", f"--name={','.join(names)}", "--format=%F|%K|%T|%r"])
    rows = [line.strip().split("|", 3) for line in printed.splitlines() if line.count("|") >= 3]
    return [QueuedTask(job, int(task) if task.isdecimal() else None, state, why) for job, task, state, why in rows]


def _run(command: Sequence[str]) -> str:
    program = shutil.which(command[0])
    if program is None:
        raise MissingRequirement(f"SLURM's '{command[0]}'", _REMEDY)
    try:
        done = subprocess.run(  # noqa: S603 - no shell; the values were checked
            [program, *command[1:]],
            stdin=subprocess.DEVNULL,
            env=user_environment(),  # which sbatch hands on to the job
            capture_output=True,
            check=False,
            encoding="utf-8",
            errors="backslashreplace",
        )
    except OSError as error:
        raise MissingRequirement(f"SLURM's '{command[0]}'", _REMEDY) from error
    if done.returncode:
        words = done.stderr.strip() or f"it exited with code {done.returncode} and printed nothing"
        raise ClusterRefused(command[0], words, _advice(words) if command[0] != "sinfo" else "")
    return done.stdout


def _advice(words: str) -> str:
    advice = next((text for part, text in _ADVICE if part in words.lower()), _OTHERWISE)
    if "partition" in words.lower():
        with suppress(ClusterRefused, MissingRequirement):
            names = sorted(set(_run(["sinfo", "--noheader", "--format=%R"]).split()))
            advice += f" Available: {', '.join(names)}."
    return advice
