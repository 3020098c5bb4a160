"""How the house is built: what an import costs, who knows whom, and how long a file may be."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vibronic

SOURCE = Path(vibronic.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
ROOMS = [
    "core",
    "data",
    "learning",
    "labelling",
    "sampling",
    "properties",
    "crystals",
    "fields",
    "explain",
    "report",
    "thermal",
    "studies",
    "verbs",
    "cli",
]
HEAVY = [
    "torch",
    "lightning",
    "torch_geometric",
    "phonopy",
    "symfc",
    "sevenn",
    "gpaw",
    "pyscf",
    "dask",
    "plotly",
    "pebble",
    "captum",
    "ase.io",
    "jsonargparse",
    "scipy",
]


def imported(path: Path) -> set[str]:
    """Modules of ours that a file imports anywhere, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {m for m in found if m.split(".")[0] == "vibronic"}


@pytest.mark.parametrize("module", ["vibronic", "vibronic.cli", "vibronic.core.errors", "vibronic.learning.recipe"])
def test_an_import_takes_no_heavy_library(module: str) -> None:
    code = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("module", "light"),
    [
        ("vibronic.sampling.phonons", "phonopy symfc lightning plotly sevenn"),
        ("vibronic.labelling.label", "sevenn pyscf dask lightning"),
        ("vibronic.learning.store", "lightning torch_geometric"),
        ("vibronic.explain.attribution", "captum lightning"),
    ],
)
def test_rooms_load_heavy_libraries_when_needed(module: str, light: str) -> None:
    code = f"import sys, {module}; print([m for m in {light.split()!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_room_knows_only_the_rooms_below(path: Path) -> None:
    room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if room not in ROOMS:
        assert room in ("__init__", "__main__")
        return
    above = set(ROOMS[ROOMS.index(room) + 1 :])
    known = {m.split(".")[1] for m in imported(path) if "." in m}
    assert not known & above


def test_every_room_is_known() -> None:
    there = {p.name for p in SOURCE.iterdir() if (p / "__init__.py").exists()} | {"cli"}
    assert there == set(ROOMS)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_file_is_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 600


def test_one_file_knows_lightning() -> None:
    knowing = {p.name for p in FILES if "import lightning" in p.read_text() or "from lightning" in p.read_text()}
    assert knowing == {"training.py"}


def test_nothing_is_pickled() -> None:
    for path in FILES:
        tree = ast.parse(path.read_text())
        names = {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
        assert not names & {"pickle", "dill", "joblib", "cloudpickle"}, path
        calls = [
            n for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) in ("torch.load", "np.load")
        ]
        for call in calls:
            keywords = {k.arg: ast.unparse(k.value) for k in call.keywords}
            assert keywords.get("weights_only") == "True" or keywords.get("allow_pickle") == "False", (
                path,
                call.lineno,
            )
