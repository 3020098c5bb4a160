"""Basis functions against PySCF, and the harmonics against the definition of orthonormality."""

import builtins

import numpy as np
import pytest
import torch
from ase.units import Bohr

from vibronic.core.errors import VibronicError
from vibronic.fields.basis import BasisSet, solid_harmonics


def test_harmonics_are_orthonormal_on_the_sphere() -> None:
    lebedev = pytest.importorskip("scipy.integrate").lebedev_rule
    x, w = lebedev(17)  # exact to degree 17, and products go to 2 * 6
    values = torch.cat(solid_harmonics(torch.tensor(x.T), 6), dim=-1).numpy()
    assert values.T @ (w[:, None] * values) == pytest.approx(np.eye(49), abs=1e-12)


def test_harmonics_are_homogeneous_and_finite_at_the_origin() -> None:
    v = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for power, (once, twice) in enumerate(zip(solid_harmonics(v, 4), solid_harmonics(2 * v, 4), strict=True)):
        assert torch.allclose(twice, 2**power * once)
    origin = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    torch.cat(solid_harmonics(origin, 4), dim=-1).sum().backward()
    assert origin.grad is not None
    assert torch.isfinite(origin.grad).all()


def test_p_functions_are_x_y_z() -> None:
    v = torch.tensor([[0.3, -1.2, 2.0]], dtype=torch.float64)
    assert torch.allclose(solid_harmonics(v, 1)[1], np.sqrt(3 / (4 * np.pi)) * v)


MOLECULES = {
    "water": ("O 0 0 0.1; H 0.9 0.2 -0.4; H -0.7 0.3 -0.5", "6-31G*", 2),
    "all of QM9": ("C 0 0 0; N 1.4 0.1 0; O 0 1.5 0.2; F -1 -1 0.3; H 0.4 -0.6 0.9", "def2-TZVP", 3),
    "third row": ("S 0 0 0; Cl 1.1 1.2 -1.3; H 0 1.3 0.2", "def2-SVP", 2),
    "general contractions": ("C 0 0 0; H 1.1 0 0.1", "cc-pVTZ", 3),
}


def _for_pyscf(table: dict) -> list:
    (element,) = table["elements"].values()
    return [
        [momentum, *([float(a), float(c)] for a, c in zip(shell["exponents"], row, strict=True) if float(c))]
        for shell in element["electron_shells"]
        for momentum, row in zip(
            shell["angular_momentum"] * (1 if len(shell["angular_momentum"]) > 1 else len(shell["coefficients"])),
            shell["coefficients"],
            strict=True,
        )
    ]


@pytest.mark.parametrize(
    ("name", "exchange"),
    [
        (name, exchange)
        for name in MOLECULES
        for exchange in (True, False)
        if name != "general contractions" or not exchange
    ],
)
def test_values_are_those_of_pyscf(name: str, exchange: bool) -> None:
    gto = pytest.importorskip("pyscf.gto", reason="PySCF is not installed")
    library = pytest.importorskip("basis_set_exchange", reason="basis-set-exchange is not installed")
    described, set_name, highest = MOLECULES[name]
    molecule = gto.M(atom=described, basis=set_name, unit="Angstrom", spin=None, verbose=0)
    if exchange:  # PySCF's tables have fewer digits here and there, so it is given the library's
        tables = {s: _for_pyscf(library.get_basis(set_name, elements=[s])) for s in molecule.elements}
        molecule = gto.M(atom=described, basis=tables, unit="Angstrom", spin=None, verbose=0)
    positions = molecule.atom_coords() * Bohr
    points = np.random.default_rng(0).normal(size=(200, 3)) * 1.5
    reference = molecule.eval_gto("GTOval_sph", points / Bohr) * Bohr**-1.5
    numbers = molecule.atom_charges()
    basis = BasisSet.from_name(set_name, numbers)
    ours = basis.evaluate(torch.tensor(points), torch.tensor(positions), torch.tensor(numbers)).numpy()
    assert max(shell.momentum for shells in basis.shells.values() for shell in shells) == highest
    assert ours.shape == reference.shape
    assert ours == pytest.approx(reference, abs=1e-10 if exchange else 1e-6)
    assert sum(basis.count(z) for z in numbers) == molecule.nao


def test_values_are_differentiable_in_the_positions() -> None:
    pytest.importorskip("basis_set_exchange", reason="basis-set-exchange is not installed")
    basis = BasisSet.from_name("6-31G*", [1, 8])
    points = torch.tensor([[0.3, 0.1, -0.2], [1.0, 0.4, 0.9]], dtype=torch.float64)
    positions = torch.tensor([[0.0, 0.0, 0.1], [0.9, 0.2, -0.4]], dtype=torch.float64, requires_grad=True)
    numbers = torch.tensor([8, 1])
    assert torch.autograd.gradcheck(lambda r: basis.evaluate(points, r, numbers), (positions,))


def test_sets_and_elements_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("basis_set_exchange", reason="basis-set-exchange is not installed")
    with pytest.raises(VibronicError, match="no basis set '6-32G'"):
        BasisSet.from_name("6-32G", [1])
    with pytest.raises(VibronicError, match="no functions for U"):
        BasisSet.from_name("6-31G", [1, 92])
    basis = BasisSet.from_name("6-31G", [1])
    with pytest.raises(VibronicError, match="read for H, not for C"):
        basis.evaluate(torch.zeros(1, 3), torch.zeros(1, 3), torch.tensor([6]))

    real = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name == "basis_set_exchange":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(VibronicError, match="pip install"):
        BasisSet.from_name("6-31G", [1])
