"""Lattice vibrations with something taken from them: controls that tell what a training set teaches by what."""

from __future__ import annotations

from copy import copy

import numpy as np
from scipy.linalg import block_diag

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


def independent(phonons: Phonons) -> Phonons:
    """The sampler with every atom moving by itself: each keeps its own mean-square displacement matrix.

    So an atom still moves further across a bond than along it where phonons say so, but no two move together, except that
    the centre of mass stays where it is, which takes about one part in the number of atoms off the matrices.

    Returns:
        Another sampler, whose modes are the axes of single atoms; ``phonons`` is not changed. Its configurations say
        "independent-sites" as their method.
    """
    other = copy(phonons)
    other.method = "independent-sites"
    other.findings = [*phonons.findings, "Every atom moves by itself, with its own mean-square displacement matrix."]
    mass = phonons.force_constants.supercell.get_masses()
    covariance = block_diag(*(m * site for m, site in zip(mass, phonons.thermal_displacements(), strict=True)))
    rigid = np.kron(np.sqrt(mass / mass.sum())[:, None], np.eye(3))
    inner = np.eye(len(covariance)) - rigid @ rigid.T
    variances, other.vectors = np.linalg.eigh(inner @ covariance @ inner)
    other.spread(np.sqrt(np.maximum(variances, 0)))
    return other
