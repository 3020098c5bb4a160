"""The YAML files in ``configs/``: accepted by their verb, complete, and a working chain from crystal to explanation."""

import inspect
from dataclasses import asdict, is_dataclass
from pathlib import Path

import pytest
import yaml
from ase import Atoms
from ase.io import read, write

from vibronic import verbs
from vibronic.cli import main

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
VERBS = {f.__name__: f for f in verbs.VERBS}
FILES = sorted(CONFIGS.glob("*.yaml"))


def resolved(verb: str, path: Path, capsys: pytest.CaptureFixture[str]) -> dict:
    """The settings that a verb makes of a file."""
    assert main([verb, "--config", str(path), "--print_config"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_is_accepted_and_means_what_it_says(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verb, _, form = path.stem.partition("-")
    assert form in ("minimal", "full")
    written = yaml.safe_load(path.read_text())
    understood = resolved(verb, path, capsys)
    assert written.items() <= understood.items()


@pytest.mark.parametrize("verb", sorted({path.stem.partition("-")[0] for path in FILES}))
def test_a_full_file_shows_every_key_and_its_default(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = yaml.safe_load((CONFIGS / f"{verb}-full.yaml").read_text())
    parameters = inspect.signature(VERBS[verb]).parameters
    assert list(shown) == list(parameters)
    for name, parameter in parameters.items():
        default = parameter.default
        if default is inspect.Parameter.empty:
            continue
        if is_dataclass(default):
            assert shown[name] == asdict(default)
        elif isinstance(default, tuple):
            assert shown[name] == list(default)
        else:
            assert shown[name] == (str(default) if isinstance(default, Path) else default)


def test_every_verb_that_computes_has_both_forms() -> None:
    names = {path.stem for path in FILES}
    for verb in VERBS.keys() - {"data", "models", "doctor"}:  # these only tell
        assert {f"{verb}-minimal", f"{verb}-full"} <= names


def test_an_unknown_key_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("crystal: NaCl\ntemprature: 300\n")
    assert main(["sample", "--config", str(path)]) == 2
    message = capsys.readouterr().err
    assert "temprature" in message
    assert len(message.strip().splitlines()) == 1


def test_the_minimal_files_are_a_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copper: Atoms) -> None:
    """Each verb reads what the one before wrote; copper and EMT stand in for rock salt and the universal potential."""
    monkeypatch.chdir(tmp_path)
    write("copper.cif", copper)

    def run(verb: str, *options: str) -> None:
        assert main([verb, "--config", str(CONFIGS / f"{verb}-minimal.yaml"), *options]) == 0

    run("sample", "copper.cif", "--engine", "emt", "-n", "12")
    run("label", "--engine", "emt", "--executor", "in-process")
    run("train")
    run("predict")
    run("explain")
    run("vibrations", "runs/model", "copper.cif", "--engine", "emt", "--supercell", "1", "1", "1", "-n", "4")
    run("evaluate")
    assert len(read("sampled.extxyz", ":")) == len(read("labelled.extxyz", ":")) == 12
    assert len(Path("predictions.csv").read_text().splitlines()) == 13
    assert Path("why.csv").exists()
    assert len(Path("vibrations.csv").read_text().splitlines()) == 1 + 9
    assert Path("metrics.json").exists()
    assert Path("runs/model/run.json").exists()
