"""Lattice vibrations of the right strengths in the wrong directions: the control that tells what stiffness teaches."""

from __future__ import annotations

from copy import copy

import numpy as np

from vibronic.sampling.phonons import Phonons


def shuffled(phonons: Phonons, seed: int, factor: float | None = None) -> Phonons:
    """The sampler with its mode amplitudes dealt to other eigenvectors at random.

    The eigenvectors and the set of amplitudes stay; which direction is soft and which is stiff is lost, and with it the
    covariance of the crystal. The total mass-weighted variance, the sum of squared amplitudes, does not change (times
    ``factor`` squared). The mean-square displacement of an atom does where masses differ, since a mode of light atoms moves
    further for the same amplitude: so the amplitudes are rescaled in common.

    Args:
        phonons: of any treatment of imaginary modes.
        seed: of the dealing.
        factor: on all amplitudes; None for the one that keeps the mean-square displacement, averaged over all atoms.

    Returns:
        Another sampler; ``phonons`` is not changed. Its configurations say "shuffled-phonons" as their method.
    """
    other = copy(phonons)
    other.method = "shuffled-phonons"
    other.findings = [*phonons.findings, "The amplitudes of the modes are dealt to other eigenvectors at random."]
    dealt = np.random.default_rng(seed).permutation(phonons.amplitudes)
    other.spread(dealt if factor is None else factor * dealt)
    if factor is None:
        wanted, found = (np.trace(p.thermal_displacements().sum(axis=0)) for p in (phonons, other))
        other.spread(dealt * np.sqrt(wanted / found))
    return other
