"""How well generated crystals and a reference set cover each other, by fingerprints of structure and composition."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from ase import Atoms

from vibronic.core.errors import VibronicError
from vibronic.core.progress import track
from vibronic.crystals.matching import quiet, to_pymatgen
from vibronic.crystals.validity import library, structural_validity


def coverage(
    structures: Sequence[Atoms],
    reference: Sequence[Atoms],
    cutoffs: tuple[float, float],
    sample: int = 1000,
    seed: int = 0,
    progress: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Which reference crystals some generated one is near to, and which generated ones are near to some of the reference.

    COV-R and COV-P of CDVAE (arXiv 2110.06197): a crystal is covered where its nearest structure fingerprint and its nearest
    composition fingerprint of the other set, not necessarily of one crystal, are both within the cut-offs. A
    generated crystal without fingerprint is near to nothing; a reference one without is left out.

    CDVAE scales composition fingerprints by fixed means and standard deviations, which agree with those of MP-20 within what
    a sample of it tells. Here they are those of the reference (its sample), so published values are comparable for
    MP-20; a narrower set, such as Perov-5, has smaller deviations and so a stricter composition cut-off here. The recall also grows
    with the number of generated crystals: compare at one ``sample``.

    Args:
        structures: generated; drawn at random down to ``sample``.
        reference: drawn too. Fingerprints take about 0.1 s per crystal.
        cutoffs: Euclidean distances, of structure and of composition.
        sample: most of each.
        seed: of the draws.
        progress: show a bar.

    Returns:
        Booleans, per reference crystal drawn and per generated crystal drawn; their means are recall and precision.

    Raises:
        VibronicError: matminer is not installed, or a set is empty or without any fingerprint.
    """
    from scipy.spatial.distance import cdist

    if not structures or not reference or sample < 1:
        raise VibronicError("coverage needs generated and reference crystals, and a sample of at least one")
    rng = np.random.default_rng(seed)
    drawn = [
        [frames[k] for k in np.sort(rng.choice(len(frames), min(sample, len(frames)), replace=False))]
        for frames in (structures, reference)
    ]
    made, known = (fingerprints(frames, progress) for frames in drawn)
    there, real = np.isfinite(made[0]).all(axis=1), np.isfinite(known[0]).all(axis=1)
    if not real.any():
        raise VibronicError("no crystal of the reference has a fingerprint: is it a set of crystals?")
    precise = np.zeros(len(made[0]), dtype=bool)
    if not there.any():
        return np.zeros(int(real.sum()), dtype=bool), precise
    mean, deviation = known[1][real].mean(axis=0), known[1][real].std(axis=0)
    deviation[deviation < 1e-9 * (1 + np.abs(mean))] = 1.0  # a feature that the reference does not vary
    near_recall, near_precise = np.ones(int(real.sum()), dtype=bool), np.ones(int(there.sum()), dtype=bool)
    scales = ((0.0, 1.0), (mean, deviation))
    for own, other, (shift, scale), cutoff in zip(made, known, scales, cutoffs):
        distances = cdist((own[there] - shift) / scale, (other[real] - shift) / scale)
        near_recall &= distances.min(axis=0) <= cutoff
        near_precise &= distances.min(axis=1) <= cutoff
    precise[there] = near_precise
    return near_recall, precise


def fingerprints(structures: Sequence[Atoms], progress: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Fingerprints of structures and of their compositions.

    Returns:
        (n, 61) CrystalNN order parameters, averaged over sites (Zimmermann and Jain, RSC Adv. 10, 6063 (2020)), and
        (n, 132) Magpie statistics of elements (Ward et al., npj Comput. Mater. 2, 16028 (2016)), both as matminer makes
        them; a row is NaN in both where a crystal has none.

    Raises:
        VibronicError: matminer is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # what matminer imports
        sites = library("matminer.featurizers.site.fingerprint").CrystalNNFingerprint.from_preset("ops")
        elements = library("matminer.featurizers.composition.composite").ElementProperty.from_preset("magpie")
    structural = np.full((len(structures), len(sites.feature_labels())), np.nan)
    compositional = np.full((len(structures), len(elements.feature_labels())), np.nan)
    for k, atoms in enumerate(track(structures, "Fingerprints", progress)):
        if not structural_validity(atoms):
            continue
        try:
            with quiet():
                # Crystals carry no oxidation states, in the published numbers neither.
                warnings.filterwarnings("ignore", message="No oxidation states specified")
                warnings.filterwarnings("ignore", message="CrystalNN: cannot locate an appropriate radius")
                warnings.simplefilter("ignore", RuntimeWarning)
                crystal = to_pymatgen(atoms)
                by_site = np.mean([sites.featurize(crystal, site) for site in range(len(crystal))], axis=0)
                by_element = np.array(elements.featurize(crystal.composition), dtype=float)
        except VibronicError:
            raise
        except Exception:  # as in CDVAE: no neighbours found means no fingerprint
            continue
        if np.isfinite(by_site).all() and np.isfinite(by_element).all():
            structural[k], compositional[k] = by_site, by_element
    return structural, compositional
