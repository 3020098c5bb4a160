"""Scenes of the viewer: every atom and bond where it belongs, periodic images included."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from vibronic.core.errors import VibronicError
from vibronic.report.crystal import element_color, scene


def length(bond):
    return float(np.linalg.norm(np.subtract(bond["end"], bond["start"])))


def test_corner_and_face_atoms_are_repeated(anti_perovskite):
    drawn = [a["elem"] for a in scene(anti_perovskite)["atoms"]]
    assert {s: drawn.count(s) for s in set(drawn)} == {"Br": 8, "Ag": 6, "S": 1}


def test_default_bonds_join_drawn_neighbours(anti_perovskite):
    drawn = scene(anti_perovskite)
    assert len(drawn["bonds"]) == 6, "sulphur has six silver neighbours"
    places = {tuple(a["xyz"]) for a in drawn["atoms"]}
    for bond in drawn["bonds"]:
        assert {tuple(bond["start"]), tuple(bond["end"])} <= places
        assert length(bond) == pytest.approx(4.934 / 2, abs=1e-3)


def test_molecule_has_bonds_but_no_cell_and_no_copies():
    drawn = scene(molecule("CH3CH2OH"))
    assert drawn["cell"] is None
    assert len(drawn["atoms"]) == 9
    assert len(drawn["bonds"]) == 8


def test_both_directions_are_one_bond_of_mean_weight():
    atoms = molecule("N2")
    twice = scene(atoms, [(0, 1, (0, 0, 0), 0.2), (1, 0, (0, 0, 0), 0.6)])["bonds"]
    assert twice == scene(atoms, [(1, 0, (0, 0, 0), 0.4)])["bonds"]
    assert len(twice) == 1


def test_weight_sets_colour_and_thickness():
    atoms = molecule("H2O")
    thin, thick = scene(atoms, [(0, 1, (0, 0, 0), 0.0), (0, 2, (0, 0, 0), 1.0)])["bonds"]
    assert thin["radius"] < thick["radius"]
    assert thin["color"] != thick["color"]


def test_a_bond_through_a_face_ends_half_way_on_both_sides():
    atoms = Atoms("H2", positions=[[1, 2, 2], [3, 2, 2]], cell=[4, 4, 4], pbc=True)
    bonds = scene(atoms, [(1, 0, (1, 0, 0), 0.5)])["bonds"]
    assert sorted((b["start"][0], b["end"][0]) for b in bonds) == [(1, 0), (3, 4)]


def test_a_neighbour_outside_the_cell_is_drawn_with_its_bond():
    atoms = Atoms("H2", positions=[[1.7, 2, 2], [2.3, 2, 2]], cell=[4, 4, 4], pbc=True)
    atoms.wrap()
    inside = scene(atoms)
    atoms.positions[:, 0] += 2.0
    atoms.wrap()  # now the bond crosses a face
    across = scene(atoms)
    assert (len(inside["atoms"]), len(across["atoms"])) == (2, 4)
    places = {tuple(a["xyz"]) for a in across["atoms"]}
    assert all({tuple(b["start"]), tuple(b["end"])} <= places for b in across["bonds"])
    assert [length(b) for b in across["bonds"]] == pytest.approx([0.6, 0.6])


def test_a_bond_of_an_atom_with_its_own_image_is_drawn():
    atoms = Atoms("H", positions=[[0, 2, 2]], cell=[4, 4, 4], pbc=True)
    bonds = scene(atoms, [(0, 0, (1, 0, 0), 0.5), (0, 0, (-1, 0, 0), 0.5)])["bonds"]
    assert [(b["start"], b["end"]) for b in bonds] in ([([4, 2, 2], [0, 2, 2])], [([0, 2, 2], [4, 2, 2])])


def test_skewed_cell_repeats_atoms_by_distance_to_the_face_not_by_fraction():
    atoms = bulk("Al")
    assert len(scene(atoms)["atoms"]) == 8
    slab = Atoms("Al", positions=[[0, 0, 5]], cell=[3, 3, 10], pbc=(True, True, False))
    assert len(scene(slab)["atoms"]) == 4
    assert scene(slab)["cell"] is not None


def test_elements_have_ase_colours():
    assert element_color("O") == "#ff0d0d"


@pytest.mark.parametrize(
    ("atoms", "bonds", "words"),
    [
        (Atoms(), None, "no atoms"),
        (Atoms("H", positions=[[np.nan, 0, 0]]), None, "not finite"),
        (molecule("H2"), [(0, 2, (0, 0, 0), 0.5)], "atoms 0 to 1"),
        (molecule("H2"), [(0, 1, (0, 0, 0), 1.5)], "scale weights"),
        (molecule("H2"), [(0, 1, (0, 0, 0), float("nan"))], "scale weights"),
    ],
)
def test_impossible_scenes_are_refused(atoms, bonds, words):
    with pytest.raises(VibronicError, match=words):
        scene(atoms, bonds)


def test_a_motion_moves_every_image_and_links_what_is_bonded(anti_perovskite):
    motion = np.arange(15.0).reshape(5, 3) / 10
    drawn = scene(anti_perovskite, motion=motion)
    still = scene(anti_perovskite)
    assert [a["xyz"] for a in drawn["atoms"]] == [a["xyz"] for a in still["atoms"]]
    for atom in drawn["atoms"]:
        assert atom["move"] == pytest.approx(motion[int(atom["label"].split()[1])])
    assert drawn["bonds"] == []
    places = [tuple(a["xyz"]) for a in drawn["atoms"]]
    linked = {frozenset((places[a], places[b])) for a, b in drawn["links"]}
    # all bonds of the still picture whose two ends are drawn atoms
    whole = {frozenset((tuple(b["start"]), tuple(b["end"]))) for b in still["bonds"]}
    assert linked == {pair for pair in whole if pair <= set(places)}
    assert linked
    for bad in (motion[:4], np.full((5, 3), np.nan)):
        with pytest.raises(VibronicError, match="one finite vector"):
            scene(anti_perovskite, motion=bad)
    with pytest.raises(VibronicError, match="without weights"):
        scene(anti_perovskite, [(0, 3, (0, 0, 0), 0.5)], motion)
