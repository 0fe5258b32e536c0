"""A real SLURM of one node on loopback, without systemd, cgroups or accounting, for as long as a test needs it."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "sinfo", "scancel")

_SEARCH = "/usr/local/sbin:/usr/sbin:/sbin:"


@dataclass(frozen=True)
class Cluster:
    """``environment`` makes SLURM's commands talk to it."""

    folder: Path
    environment: dict[str, str]

    def ask(self, *command: str) -> str:
        """What a command of SLURM prints; it must succeed."""
        done = subprocess.run(
            command, env={**os.environ, **self.environment}, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}\n{self.logs()}"
        return done.stdout

    def logs(self) -> str:
        """The ends of the daemons' logs, for a test that fails."""
        return "\n".join(
            f"== {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            for log in sorted(self.folder.glob("*.log"))
        )


def missing() -> str:
    """Why there can be no SLURM here, or empty text."""
    absent = [name for name in NEEDED if not _program(name)]
    if absent:
        return f"SLURM is not installed ({', '.join(absent)}): apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "starting SLURM needs root"


def _program(name: str) -> str | None:
    return shutil.which(name, path=_SEARCH + os.environ["PATH"])


@contextmanager
def cluster(cpus: int = 4) -> Iterator[Cluster]:
    """Start munged, slurmctld and slurmd; stop them at the end. ``cpus`` may be more than there are."""
    # a short name: the length of a socket's path is limited
    folder = Path(tempfile.mkdtemp(prefix="icf-slurm-"))
    folder.chmod(0o755)
    started: list[subprocess.Popen[bytes]] = []
    try:
        munge = _start_munge(folder, started)
        config = _write_config(folder, munge, cpus)
        environment = {"SLURM_CONF": str(config)}
        for name in ("slurmctld", "slurmd"):
            started += [_daemon(folder, name, ["-D", "-f", str(config)], environment)]
        found = Cluster(folder, environment)
        _wait_until_idle(found, started)
        try:
            yield found
        finally:
            _end_jobs(found)
    finally:
        _stop(started)
        shutil.rmtree(folder, ignore_errors=True)


def _start_munge(folder: Path, started: list[subprocess.Popen[bytes]]) -> Path:
    """munged as its own user; returns its socket."""
    user = pwd.getpwnam("munge")
    own = folder / "munge"
    own.mkdir(mode=0o711)
    (own / "key").write_bytes(os.urandom(128))
    (own / "key").chmod(0o400)
    for path in (own, own / "key"):
        os.chown(path, user.pw_uid, user.pw_gid)
    files = [f"--{name}={own / file}" for name, file in _MUNGE_FILES.items()]
    program = _program("munged")
    assert program
    command = [program, "--foreground", "--num-threads=2", *files]
    log = (folder / "munged.log").open("wb")
    with log:
        started.append(
            subprocess.Popen(
                command, stdout=log, stderr=log, user=user.pw_uid, group=user.pw_gid, extra_groups=[], cwd="/"
            )
        )
    _wait_for((own / "socket").exists, "munged has no socket")
    return own / "socket"


_MUNGE_FILES = {
    "key-file": "key",
    "log-file": "log",
    "pid-file": "pid",
    "seed-file": "seed",
    "socket": "socket",
}


def _write_config(folder: Path, munge: Path, cpus: int) -> Path:
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "cgroup.conf").write_text("", encoding="ascii")
    controller, node = _free_ports()
    config = folder / "slurm.conf"
    text = _CONFIG.format(
        host=socket.gethostname().partition(".")[0],
        folder=folder,
        munge=munge,
        cpus=cpus,
        controller=controller,
        node=node,
    )
    config.write_text(text, encoding="ascii")
    return config


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1]), int(other.getsockname()[1])


def _daemon(folder: Path, name: str, arguments: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    program = _program(name)
    assert program
    with (folder / f"{name}.out.log").open("wb") as log:
        return subprocess.Popen(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **environment},
            start_new_session=True,
        )


def _wait_until_idle(found: Cluster, started: list[subprocess.Popen[bytes]]) -> None:
    def idle() -> bool:
        assert all(process.poll() is None for process in started), found.logs()
        done = subprocess.run(
            ["sinfo", "-h", "-o", "%T"],
            env={**os.environ, **found.environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return done.stdout.strip() == "idle"

    try:
        _wait_for(idle, "SLURM's node does not become idle")
    except AssertionError as error:
        raise AssertionError(f"{error}\n{found.logs()}") from error


def _wait_for(condition: Callable[[], bool], problem: str) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError(problem)


def _end_jobs(found: Cluster) -> None:
    """A job does not end with the daemons; its own process would stay behind."""
    for number in found.ask("squeue", "--noheader", "--array", "--format=%i").split():
        subprocess.run(["scancel", number], env={**os.environ, **found.environment}, capture_output=True, check=False)
    _wait_for(lambda: not found.ask("squeue", "--noheader").strip(), "jobs cannot be ended")


def _stop(started: list[subprocess.Popen[bytes]]) -> None:
    """The last first."""
    for process in reversed(started):
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


_CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={munge}
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
ReturnToService=2
SlurmdParameters=config_overrides
SlurmctldPort={controller}
SlurmdPort={node}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
MailProg=/bin/true
MinJobAge=600
KillWait=3
OverTimeLimit=0
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE DefMemPerCPU=200 State=UP
PartitionName=short Nodes=ALL MaxTime=1 DefMemPerCPU=200 State=UP
"""
