import numpy as np
import pytest

from vibronic.core.errors import VibronicError
from vibronic.sampling.checks import mean_square_displacements, minimum_distance
from vibronic.sampling.phonons import Phonons
from vibronic.sampling.rattle import Rattle


def raw(snapshots, reference):
    return np.array([s.positions - reference.positions for s in snapshots])


def test_gaussian_is_mean_free_symmetric_and_has_its_amplitude(salt):
    u = raw(Rattle(0.3).sample(salt, 1000, 0), salt)
    assert np.abs(u.mean(axis=1)).max() < 1e-12
    assert np.sqrt((u**2).sum(axis=2).mean()) == pytest.approx(0.3, rel=0.01)
    error = 0.3 / np.sqrt(3) / np.sqrt(u.shape[0])
    assert np.abs(u.mean(axis=0)).max() < 5 * error
    assert abs((u**3).mean()) < 0.02 * 0.3**3


def test_uniform_positive_is_the_papers(anti_perovskite):
    """U(0, 0.4) on 40 atoms: rms 0.40 A raw, 0.198 A without the rigid shift."""
    crystal = anti_perovskite * (2, 2, 2)
    u = raw(Rattle(0.4, "uniform-positive").sample(crystal, 500, 0), crystal)
    assert u.min() >= 0
    assert u.max() <= 0.4
    assert np.sqrt((u**2).sum(axis=2).mean()) == pytest.approx(0.40, abs=0.005)
    relative = u - u.mean(axis=1, keepdims=True)
    assert np.sqrt((relative**2).sum(axis=2).mean()) == pytest.approx(0.198, abs=0.002)


@pytest.mark.parametrize("supercell", [(2, 1, 1), (2, 2, 2)])
def test_amplitudes_per_species_survive_the_centring(anti_perovskite, supercell):
    crystal = anti_perovskite * supercell
    rattle = Rattle(0.15, per_species={"Ag": 0.4, "S": 0.2})
    u = raw(rattle.sample(crystal, 4000, 0), crystal)
    for number, amplitude in ((47, 0.4), (16, 0.2), (35, 0.15)):
        squared = (u[:, crystal.numbers == number] ** 2).sum(axis=2).mean()
        assert np.sqrt(squared) == pytest.approx(amplitude, rel=0.02)


@pytest.mark.parametrize("distribution", ["gaussian", "uniform-positive", "monte-carlo"])
@pytest.mark.parametrize("per", ["overall", "species"])
def test_matched_to_phonons(nacl, distribution, per):
    reference = nacl.supercell
    phonons = Phonons(nacl, 300).sample(reference, 300, 0)
    rattle = Rattle.matched_to(phonons, reference, per, distribution, min_distance=1.8)
    wanted = mean_square_displacements(phonons, reference)
    n = 60 if distribution == "monte-carlo" else 400
    found = mean_square_displacements(rattle.sample(reference, n, 1), reference)
    if per == "species":
        assert found == pytest.approx(wanted, rel=0.06)
    else:
        mean = np.mean(list(wanted.values()))
        assert found == pytest.approx(dict.fromkeys(wanted, mean), rel=0.06)


def test_monte_carlo_keeps_its_distance_where_plain_gaussian_cannot(salt):
    limit = 2.2
    assert minimum_distance(Rattle(0.5).sample(salt, 10, 0)) < limit
    snapshots = Rattle(0.5, "monte-carlo", min_distance=limit).sample(salt, 10, 0)
    assert minimum_distance(snapshots) > limit
    u = raw(snapshots, salt)
    assert np.sqrt((u**2).sum(axis=2).mean()) == pytest.approx(0.5, rel=0.1)
    assert np.abs(u.mean(axis=1)).max() < 1e-12


@pytest.mark.parametrize(
    "amplitudes", [{"Ag": 0.3, "S": 0.3, "Br": 0.3}, {"Ag": 0.6, "S": 0.3, "Br": 0.3}], ids=["equal", "different"]
)
@pytest.mark.parametrize("supercell", [(1, 1, 1), (2, 2, 2)])
def test_monte_carlo_reaches_every_amplitude(anti_perovskite, amplitudes, supercell):
    """Also in a cell of five atoms, where removing the mean takes a fifth, and although close atoms refuse moves."""
    crystal = anti_perovskite * supercell
    rattle = Rattle(0.3, "monte-carlo", per_species=amplitudes, min_distance=1.6)
    squared = (raw(rattle.sample(crystal, 2000 // len(crystal), 0), crystal) ** 2).sum(axis=2)
    found = {s: np.sqrt(squared[:, crystal.symbols == s].mean()) for s in amplitudes}
    assert found == pytest.approx(amplitudes, rel=0.02)


def test_rejection(salt):
    snapshots = Rattle(0.3, min_distance=2.0).sample(salt, 20, 0)
    assert minimum_distance(snapshots) >= 2.0
    assert 0 < snapshots[0].info["rejected_share"] < 1
    with pytest.raises(VibronicError, match="keep all distances"):
        Rattle(0.6, min_distance=2.7).sample(salt, 5, 0)


def test_no_amplitude_no_displacement(salt):
    for rattle in (Rattle(0), Rattle(0, "monte-carlo", min_distance=1.0), Rattle(0, "uniform-positive")):
        assert np.abs(raw(rattle.sample(salt, 2, 0), salt)).max() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"amplitude": -0.1}, "at least 0"),
        ({"amplitude": np.nan}, "at least 0"),
        ({"amplitude": 0.1, "distribution": "normal"}, "choose gaussian"),
        ({"amplitude": 0.1, "distribution": "monte-carlo"}, "minimum distance"),
        ({"amplitude": 0.1, "per_species": {"Na": -1}}, "at least 0"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(VibronicError, match=message):
        Rattle(**arguments)


def test_bad_structures(salt, copper):
    with pytest.raises(VibronicError, match="does not contain"):
        Rattle(0.1, per_species={"K": 0.1}).sample(salt, 1, 0)
    with pytest.raises(VibronicError, match="reference itself"):
        Rattle(0.1, "monte-carlo", min_distance=3.0).sample(salt, 1, 0)
    with pytest.raises(VibronicError, match="same order"):
        Rattle.matched_to([copper], salt)
    with pytest.raises(VibronicError, match="no snapshots"):
        Rattle.matched_to([], salt)
    with pytest.raises(VibronicError, match="overall or per species"):
        Rattle.matched_to([salt], salt, per="atom")
