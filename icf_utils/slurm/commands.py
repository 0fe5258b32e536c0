"""Talks to SLURM by its own commands: sbatch, squeue, sinfo. Starts these processes; reads and writes no files."""

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
    "run this where jobs are submitted from (a login node, perhaps after 'module load slurm'), "
    "or without --slurm on this machine"
)

#: What is in SLURM's words, and what to do then. The first that fits counts.
_ADVICE = (
    ("partition", "Choose another --partition."),
    ("account", "Name an account that you may use with --account."),
    ("array", "Choose a smaller --array-size."),
    ("memory", "Choose a smaller --mem, or a --partition with larger nodes."),
    ("node configuration", "No node has what is asked for: choose a smaller --mem or -j, or another --partition."),
    ("time", "Choose a --time that the partition allows, as in 02:00:00."),
    ("contact slurm controller", "SLURM does not answer; try again later, or ask those who run the cluster."),
)
_OTHERWISE = "Correct the options, or ask those who run the cluster."


def submit_script(script: Path, options: Sequence[str]) -> str:
    """Submit a script; returns the job's number.

    Raises :class:`~icf_utils.errors.MissingRequirement` without sbatch, and
    :class:`~icf_utils.errors.ClusterRefused` with SLURM's own words.
    """
    printed = _run(["sbatch", "--parsable", *options, str(script)])
    return printed.strip().splitlines()[-1].partition(";")[0]


def list_queue(names: Sequence[str]) -> list[QueuedTask]:
    """What SLURM has not finished of the jobs of these names. Raises as :func:`submit` does."""
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
        words = done.stderr.strip() or f"it ended with exit code {done.returncode} and said nothing"
        raise ClusterRefused(command[0], words, _advice(words) if command[0] != "sinfo" else "")
    return done.stdout


def _advice(words: str) -> str:
    advice = next((text for part, text in _ADVICE if part in words.lower()), _OTHERWISE)
    if "partition" in words.lower():
        with suppress(ClusterRefused, MissingRequirement):
            names = sorted(set(_run(["sinfo", "--noheader", "--format=%R"]).split()))
            advice += f" There are: {', '.join(names)}."
    return advice
