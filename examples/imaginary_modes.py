"""A crystal whose harmonic modes are imaginary, and what each choice makes of it: body-centred copper with EMT."""

import numpy as np
from ase.build import bulk

from vibronic.core.errors import VibronicError
from vibronic.labelling.engines import engine
from vibronic.sampling.anharmonic import prepare_phonons
from vibronic.sampling.checks import minimum_distance
from vibronic.sampling.phonons import force_constants
from vibronic.sampling.relax import relax
from vibronic.sampling.sampler import displacements_of


def main() -> None:
    calculator = engine("emt").calculator()
    crystal = relax(bulk("Cu", "bcc", a=2.88, cubic=True), calculator)
    constants = force_constants(crystal, (2, 2, 2), calculator)
    print(constants.modes().describe())
    for choice in ("refuse", "freeze", "cap", "sscha"):
        try:
            phonons, findings = prepare_phonons(constants, 300, choice, "classical", calculator, progress=False)
        except VibronicError as error:
            print(f"{choice}: {error}")
            continue
        snapshots = phonons.sample(constants.supercell, n=50, seed=0)
        displaced = np.sqrt((displacements_of(snapshots, constants.supercell) ** 2).sum(axis=2).mean())
        print(
            f"{choice}: rms displacement {displaced:.2f} Angstrom, shortest distance {minimum_distance(snapshots):.2f}"
        )
        print(f"  {findings[-1]}")


if __name__ == "__main__":
    main()
