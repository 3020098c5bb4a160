"""Engines: what can label a structure, under which name, with which settings, and how to install it.

An engine is an ASE calculator with a name, a version and resolved settings; their hash says which labels belong together.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import metadata
from typing import Any

from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator

from vibronic.core.errors import VibronicError

Settings = dict[str, Any]


@dataclass(frozen=True)
class EngineSpec:
    """One line of the table of engines.

    Attributes:
        name: what people type.
        summary: what it is, in one line.
        properties: labels it gives, by target name.
        on_request: those of them that are computed only when asked for by name, because they are long.
        package: distribution that it needs; the module to import is the same word.
        install: shell commands that install it, in order.
        defaults: every setting with its default value.
        build: makes the calculator from resolved settings; a module-level function, so that workers can import it.
        example: makes a structure small enough for ``vibronic doctor``; importable as well.
    """

    name: str
    summary: str
    properties: tuple[str, ...]
    package: str
    install: tuple[str, ...]
    defaults: Settings
    build: Callable[[Settings], Calculator]
    example: Callable[[], Atoms]
    on_request: tuple[str, ...] = ()


def _sevennet(settings: Settings) -> Calculator:
    import warnings

    import torch

    # Structures are small and workers run side by side: more threads only make them wait for one another.
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No tensor product accelerator")
        warnings.filterwarnings("ignore", message="`torch.jit", category=DeprecationWarning)
        from sevenn.calculator import SevenNetCalculator

        return SevenNetCalculator(model=settings["model"], modal=settings["modal"], device=settings["device"])


def _chgnet(settings: Settings) -> Calculator:
    import contextlib
    import io

    import torch

    torch.set_num_threads(1)
    with contextlib.redirect_stdout(io.StringIO()):  # it greets on standard output, which belongs to the verbs
        from chgnet.model.dynamics import CHGNetCalculator

        return CHGNetCalculator(use_device=settings["device"], on_isolated_atoms="error")


def _emt(settings: Settings) -> Calculator:
    from ase.calculators.emt import EMT

    return EMT()


def _gpaw(settings: Settings) -> Calculator:
    from vibronic.labelling.dft import PlaneWaveDFT

    return PlaneWaveDFT(settings)


def _pyscf(settings: Settings) -> Calculator:
    from vibronic.labelling.dft import MolecularDFT

    return MolecularDFT(settings)


def _files(settings: Settings) -> Calculator:
    raise VibronicError("the engine 'files' only takes labels that the structures already carry; it computes nothing")


def _labelled_copper() -> Atoms:
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms = bulk("Cu")
    atoms.calc = SinglePointCalculator(atoms, energy=0.0)
    return atoms


_SITECONFIG = (
    "mpi = False\\ncompiler = 'gcc'\\nlibraries = ['xc', 'openblas']\\n"
    "noblas = False\\nnolibxc = False\\nfftw = False\\nscalapack = False\\n"
)

ENGINES: dict[str, EngineSpec] = {
    spec.name: spec
    for spec in (
        EngineSpec(
            "sevennet",
            "universal potential SevenNet; the weights of 7net-0 come with the package",
            ("energy", "forces", "stress"),
            "sevenn",
            ("pip install sevenn",),
            {"model": "7net-0", "modal": None, "device": "auto"},
            _sevennet,
            partial(bulk, "NaCl", "rocksalt", a=5.64),
        ),
        EngineSpec(
            "chgnet",
            "universal potential CHGNet",
            ("energy", "forces", "stress"),
            "chgnet",
            ("pip install chgnet",),
            {"device": "cpu"},
            _chgnet,
            partial(bulk, "NaCl", "rocksalt", a=5.64),
        ),
        EngineSpec(
            "emt",
            "effective-medium theory for Al, Cu, Ag, Au, Ni, Pd, Pt (and toy H, C, N, O); for tests",
            ("energy", "forces", "stress"),
            "ase",
            ("pip install ase",),
            {},
            _emt,
            partial(bulk, "Cu"),
        ),
        EngineSpec(
            "gpaw",
            "plane-wave DFT; ecut and width in eV, kpts a Gamma-centred mesh of the given cell",
            ("energy", "forces", "stress", "band_gap", "vbm", "cbm", "eigenvalues"),
            "gpaw",
            (
                "apt-get install -y --no-install-recommends libxc-dev libopenblas-dev gfortran",
                f'printf "{_SITECONFIG}" > siteconfig.py',
                "GPAW_CONFIG=$PWD/siteconfig.py pip install gpaw gpaw-data",
            ),
            {"xc": "PBE", "ecut": 400.0, "kpts": [1, 1, 1], "width": 0.02},
            _gpaw,
            partial(Atoms, "He", cell=[3.0] * 3, pbc=True),
            on_request=("eigenvalues",),
        ),
        EngineSpec(
            "pyscf",
            "molecular DFT; charge and spin (unpaired electrons) are read from the info of the structure",
            ("energy", "forces", "dipole", "homo", "lumo", "density_matrix"),
            "pyscf",
            ("pip install pyscf",),
            {"xc": "PBE", "basis": "6-31G*", "fitting": "", "grid": 3},
            _pyscf,
            partial(molecule, "H2"),
            on_request=("density_matrix",),
        ),
        EngineSpec(
            "files",
            "labels that came with the structures, from VASP, Quantum ESPRESSO or extxyz output",
            ("energy", "forces", "stress", "band_gap", "vbm", "cbm", "homo", "lumo", "dipole"),
            "ase",
            ("pip install ase",),
            {},
            _files,
            _labelled_copper,
        ),
    )
}


@dataclass(frozen=True)
class Engine:
    """An engine with its resolved settings; made by :func:`engine`, safe to send to another process.

    Attributes:
        spec: its line in the table.
        settings: every setting with its value.
        contents: sha256 of the file that a setting names, such as a model of one's own, by setting.
    """

    spec: EngineSpec
    settings: Settings
    contents: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def properties(self) -> tuple[str, ...]:
        """Labels it gives, by target name."""
        return self.spec.properties

    @property
    def version(self) -> str:
        """Version of the package that computes."""
        return _version(self.spec.package)

    @property
    def settings_hash(self) -> str:
        """Name, and sha256 of name, version and settings, shortened; of a file that a setting names, its content counts.

        The name goes first because extxyz would read hexadecimal digits such as ``12e4`` as a number.
        """
        settings = {**self.settings, **self.contents}
        text = json.dumps({"engine": self.name, "version": self.version, "settings": settings}, sort_keys=True)
        return f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def calculator(self) -> Calculator:
        """A new ASE calculator, whose errors are sentences too: the verbs that use it know no engine.

        Raises:
            VibronicError: it cannot be built, as for ``files``, which has none; or (the calculator) it cannot calculate.
        """
        with _sentences(f"the engine '{self.name}' does not start", "check its settings and its installation"):
            calculator = self.spec.build(self.settings)
        # On the instance, because it stays what it is for everybody who asks for its type, results or parameters.
        calculator.calculate = partial(_calculate, self.name, calculator.calculate)  # type: ignore[method-assign]
        return calculator


def _calculate(name: str, calculate: Callable[..., None], *arguments: Any, **options: Any) -> None:
    with _sentences(f"the engine '{name}' cannot calculate this structure", "choose another engine or other settings"):
        calculate(*arguments, **options)


@contextmanager
def _sentences(what: str, advice: str) -> Iterator[None]:
    """Tell an exception of foreign code, which can be any, in one sentence."""
    try:
        yield
    except (VibronicError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise VibronicError(f"{what} ({reason[:300]}); {advice}") from error


@cache  # read from disk, and asked for with every label
def _version(package: str) -> str:
    return metadata.version(package)


def engine(name: str, **settings: Any) -> Engine:
    """The engine of this name with these settings in place of its defaults.

    Raises:
        VibronicError: the name or a setting is unknown, a value has the wrong type, or the engine is not installed.
    """
    spec = ENGINES.get(name)
    if spec is None:
        raise VibronicError(f"unknown engine '{name}'{_suggest(name, ENGINES)}; engines: {', '.join(ENGINES)}")
    resolved = dict(spec.defaults)
    for key, value in settings.items():
        if key not in resolved:
            known = f"its settings: {', '.join(resolved)}" if resolved else "it has no settings"
            raise VibronicError(f"the engine '{name}' has no setting '{key}'{_suggest(key, resolved)}; {known}")
        resolved[key] = _like(spec.defaults[key], value, f"the setting '{key}' of the engine '{name}'")
    if importlib.util.find_spec(spec.package) is None:
        raise VibronicError(f"the engine '{name}' is not installed; install it with: {' && '.join(spec.install)}")
    # Read once: a file that changes while its labels are computed would give the structures of one run different keys.
    contents = {k: _sha256(v) for k, v in resolved.items() if isinstance(v, str) and os.path.isfile(v)}
    return Engine(spec, resolved, contents)


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _suggest(word: str, known: dict[str, Any]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _like(default: Any, value: Any, what: str) -> Any:
    """``value`` as the type of ``default``, so that 400 and 400.0, (1, 1, 1) and [1, 1, 1] have the same hash."""
    try:
        if isinstance(default, list):
            if len(value) != len(default):
                raise ValueError
            return [_like(d, v, what) for d, v in zip(default, value)]
        if isinstance(default, int | float):
            converted = type(default)(value)
            # Every numeric setting (cutoff, mesh, width) is a positive size; int() would silently cut 1.5 to 1.
            if converted != float(value) or not 0 < converted < float("inf"):
                raise ValueError
            return converted
        return value if value is None else str(value)
    except (TypeError, ValueError):
        raise VibronicError(f"{what} must look like {default!r}, not {value!r}") from None


def doctor() -> list[dict[str, Any]]:
    """Try every engine on a tiny structure.

    Returns:
        One row per engine: ``engine``, ``summary``, ``properties``, ``works``, ``version`` (None if absent),
        ``seconds`` (import included), ``problem`` (None if it works) and ``install`` (commands, when it does not).
    """
    from vibronic.labelling.executors import calculate

    rows = []
    for name, spec in ENGINES.items():
        start = time.perf_counter()
        version, problem = None, None
        try:
            tried = engine(name)
            version = tried.version
            outcome = calculate(tried, spec.example(), ("energy",))
            problem = outcome.reason
        except VibronicError:
            problem = "not installed"
        rows.append(
            {
                "engine": name,
                "summary": spec.summary,
                "properties": list(spec.properties),
                "works": problem is None,
                "version": version,
                "seconds": round(time.perf_counter() - start, 3),
                "problem": problem,
                "install": list(spec.install) if problem else [],
            }
        )
    return rows
