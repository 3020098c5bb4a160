"""The wheel, in an empty environment outside the checkout, is the whole tool: verbs, data and report assets."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]

LOOK_INSIDE = """
from importlib.resources import files
from pathlib import Path
import sys, vibronic
root = files("vibronic")
assert Path(str(root)).is_relative_to(sys.prefix), root
for name in ("data/sets/Ag3SBr-pbe.extxyz.gz", "data/sets/Ag3SBr.cif", "report/assets/3Dmol-min.js"):
    assert root.joinpath(*name.split("/")).is_file(), name
"""


def run(*command: str | Path, where: Path) -> str:
    done = subprocess.run(command, cwd=where, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_the_wheel_works_alone(tmp_path: Path) -> None:
    run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, CHECKOUT, where=tmp_path)
    (wheel,) = tmp_path.glob("vibronic-*.whl")
    venv.create(tmp_path / "environment", with_pip=True)
    binaries = tmp_path / "environment" / "bin"
    run(binaries / "pip", "install", "--constraint", CHECKOUT / "constraints.txt", wheel, where=tmp_path)
    overview = run(binaries / "vibronic", "--help", where=tmp_path)
    assert "demo" in overview
    assert "Ag3SBr-pbe" in run(binaries / "vibronic", "data", where=tmp_path)
    run(binaries / "vibronic", "data", "Ag3SBr-pbe", "--out", "gaps.extxyz", where=tmp_path)
    assert (tmp_path / "gaps.extxyz").stat().st_size > 100_000
    run(binaries / "python", "-c", LOOK_INSIDE, where=tmp_path)
