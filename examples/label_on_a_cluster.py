"""Label on a cluster: by SLURM jobs where there is SLURM, by processes of this machine where there is none.

    python examples/label_on_a_cluster.py

The same call with the same ledger goes on after any accident; see docs/howto/cluster.md. For your own cluster, change
``slurm`` (queue, account, memory, time, how the environment is entered) and the engine.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from ase.build import bulk

from vibronic.labelling.label import label

WORKERS = 2


def slurm():
    """One job is one worker with one core; a calculation runs in a process of its own beside the worker."""
    from dask_jobqueue import SLURMCluster

    return SLURMCluster(
        python=sys.executable,  # of an environment that the nodes see too
        queue="standard",
        account="materials",
        cores=1,
        processes=1,
        memory="8GB",
        walltime="08:00:00",
        nanny=False,  # a worker under a nanny may not start processes
        death_timeout=600,  # seconds after which a job ends whose scheduler does not answer
        local_directory=tempfile.gettempdir(),
        job_script_prologue=["export OMP_NUM_THREADS=1"],
        job_extra_directives=["--hint=nomultithread"],
    )


def here():
    from distributed import LocalCluster

    return LocalCluster(n_workers=0, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0")


if __name__ == "__main__":
    structures = [bulk("Cu", cubic=True) for _ in range(8)]
    for seed, atoms in enumerate(structures):
        atoms.rattle(0.05, seed=seed)

    with tempfile.TemporaryDirectory() as folder, slurm() if shutil.which("sbatch") else here() as cluster:
        print("workers:", type(cluster).__name__)
        cluster.scale(WORKERS)
        ledger = Path(folder) / "labels.sqlite"  # for work that counts: on a local disk that stays
        for _ in range(2):
            report = label(structures, "emt", ledger, cluster.scheduler_address, WORKERS, timeout=3600, progress=False)
            print(f"computed {report.computed}, in the ledger before {report.reused}, failed {len(report.failures)}")
        energies = [atoms.get_potential_energy() for atoms in report.labelled]
        print(f"energies from {min(energies):.3f} to {max(energies):.3f} eV")
