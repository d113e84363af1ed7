"""Runs a real Slurm for tests on the loopback interface: munged, slurmctld and one slurmd."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")

_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
SlurmdUser=root
SlurmctldPort={controller_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
NodeName=localhost NodeHostname={host} NodeAddr=127.0.0.1 Port={node_port} CPUs=4 Sockets=1 \
CoresPerSocket=4 ThreadsPerCore=1 RealMemory=4000 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Returns the reason why Slurm cannot run here; None if it can."""
    absent = [name for name in NEEDED if not shutil.which(name)]
    if absent:
        return f"Slurm needs {', '.join(absent)}: Debian's packages slurm-wlm and munge"
    return None if os.geteuid() == 0 else "starting Slurm's daemons needs root"


def _free_port() -> int:
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def running(folder: Path):
    """Starts Slurm and sets SLURM_CONF; stops it at the end."""
    folder.chmod(0o755)
    (folder / "state").mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    host = socket.gethostname().split(".")[0]
    conf = folder / "slurm.conf"
    conf.write_text(
        _CONF.format(folder=folder, host=host, controller_port=_free_port(), node_port=_free_port())
    )
    daemons = [
        ["munged", "--foreground", "--force", f"--key-file={key}",
         f"--socket={folder}/munge.socket", f"--pid-file={folder}/munged.pid",
         f"--log-file={folder}/munged.log", f"--seed-file={folder}/munged.seed"],
        ["slurmctld", "-D"],
        ["slurmd", "-D", "-N", "localhost"],
    ]  # fmt: skip
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(conf)
    processes = []
    try:
        for command in daemons:
            with (folder / f"{command[0]}.out").open("wb") as out:
                processes.append(subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT))
            time.sleep(0.5)
        wait(lambda: "idle" in _output("sinfo", "--noheader"), 60, "Slurm's node is not idle")
        yield
    finally:
        subprocess.run(["scancel", "--full", "--user=root"], capture_output=True)
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            process.kill()
            process.wait()
        if before is None:
            del os.environ["SLURM_CONF"]
        else:
            os.environ["SLURM_CONF"] = before


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout


def wait(condition, seconds: float, message: str) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, message
        time.sleep(0.2)


def state() -> str:
    """Returns Slurm's report of its jobs and its node, for error messages."""
    return _output("scontrol", "show", "job") + _output("sinfo", "--Node", "--long")


def hurry() -> None:
    """Starts pending jobs at once. Slurm would start a requeued job after two minutes."""
    jobs = _output("squeue", "--noheader", "--array", "--states=PD", "--format=%i").split()
    if jobs:
        # A job cannot restart in the second in which it was killed: "Job credential revoked".
        time.sleep(2)
    for job in jobs:
        _output("scontrol", "update", f"job={job}", "StartTime=now")
