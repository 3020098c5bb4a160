"""The example for SLURM, against an ``sbatch`` that runs a job's script on this machine."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("dask_jobqueue")
psutil = pytest.importorskip("psutil")

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "label_on_a_cluster.py"
SBATCH = """#!/bin/bash
set -m  # a job is a process group
cp "$1" {folder}/job-$$.sh  # whoever submitted it deletes it at once
bash {folder}/job-$$.sh > {folder}/job-$$.log 2>&1 &
echo $! > {folder}/job-$$.pid
echo Submitted batch job $$
"""
SCANCEL = """#!/bin/bash
for job in "$@"; do echo $job >> {folder}/cancelled; kill -- -$(cat {folder}/job-$job.pid); done
"""


def test_jobs_are_submitted_label_and_are_cancelled(tmp_path):
    for name, script in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (tmp_path / name).write_text(script.format(folder=tmp_path))
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    run = [sys.executable, str(EXAMPLE)]
    done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:3] == [
        "workers: SLURMCluster",
        "computed 8, in the ledger before 0, failed 0",
        "computed 0, in the ledger before 8, failed 0",
    ]
    jobs = sorted(tmp_path.glob("job-*.sh"))
    assert len(jobs) == 2
    for job in jobs:
        lines = job.read_text().splitlines()
        directives = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")]
        assert {"-p standard", "-A materials", "-n 1", "--cpus-per-task=1", "--mem=8G", "-t 08:00:00"} <= set(
            directives
        )
        assert "--hint=nomultithread" in directives
        assert "export OMP_NUM_THREADS=1" in lines
        assert re.search(r"-m distributed.cli.dask_worker tcp://\S+ .*--nthreads 1 .*--no-nanny", lines[-1])
    cancelled = (tmp_path / "cancelled").read_text().split()
    assert sorted(cancelled) == sorted(job.stem.removeprefix("job-") for job in jobs)
    deadline = time.monotonic() + 60
    while any(psutil.pid_exists(int(job.with_suffix(".pid").read_text())) for job in jobs):
        assert time.monotonic() < deadline, "workers outlive their jobs"
        time.sleep(0.05)
