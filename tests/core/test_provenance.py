"""Files that are whole or not there, and the record beside them."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from vibronic.core.errors import VibronicError
from vibronic.core.provenance import check_paths, check_writable, run_record, versions, writable, write_json


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), writable(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_success_replaces_and_respects_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    with writable(path) as temporary:
        temporary.write_text("new")
    umask = os.umask(0)
    os.umask(umask)
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask
    assert os.listdir(path.parent) == ["a.txt"]


def test_a_writer_that_makes_a_private_file_of_its_own(tmp_path: Path) -> None:
    with writable(tmp_path / "a.txt") as temporary:
        temporary.unlink()
        temporary.touch(mode=0o600)
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o666 & ~umask


def test_nothing_is_written_over_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.extxyz", "cells/b.cif", "cells/table.csv"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    Path("link.extxyz").symlink_to("a.extxyz")
    os.link("a.extxyz", "hard.extxyz")
    for out in ("a.extxyz", "./cells/../a.extxyz", tmp_path / "a.extxyz", "link.extxyz", "hard.extxyz"):
        with pytest.raises(VibronicError, match="is read here and would be overwritten"):
            check_paths(["a.extxyz"], ["b.csv", out])
    for out in ("cells", "cells/b.cif"):
        with pytest.raises(VibronicError, match="is read here"):
            check_paths([None, "cells"], [out])
    with pytest.raises(VibronicError, match=r"same\.csv would be written twice"):
        check_paths([], ["same.csv", "./same.csv"])
    check_paths(["a.extxyz", "cells", "NaCl", None], ["b.extxyz", "cells/table.csv", "cells/model", "NaCl"])


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_is_none(tmp_path: Path, seed: int) -> None:
    with pytest.raises(VibronicError, match="--seed must be"), run_record(tmp_path / "out.csv", "sample", {}, seed):
        pytest.fail("the work has begun")


def test_below_a_regular_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for attempt in (
        lambda: check_writable(tmp_path / "file" / "x"),
        lambda: write_json(tmp_path / "file" / "x.json", {}),
    ):
        with pytest.raises(VibronicError, match="cannot write"):
            attempt()


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(VibronicError, match="No space left"):
        write_json(tmp_path / "a.json", {})
    assert os.listdir(tmp_path) == []


def test_json_of_numpy_and_paths(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": np.float64(1.5), "y": np.arange(3), "p": tmp_path})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1.5, "y": [0, 1, 2], "p": str(tmp_path)}
    with pytest.raises(TypeError):
        write_json(tmp_path / "b.json", {"x": object()})
    assert not (tmp_path / "b.json").exists()


def test_the_record_of_a_run(tmp_path: Path) -> None:
    with run_record(tmp_path / "out.csv", "predict", {"a": 1}, seed=7) as record:
        record["rows"] = 3
    written = json.loads((tmp_path / "out.run.json").read_text())
    assert {"verb": "predict", "config": {"a": 1}, "seed": 7, "rows": 3}.items() <= written.items()
    assert written["seconds"] >= 0
    assert {"python", "torch", "ase", "numpy"} <= set(written["versions"])
    assert {"platform", "cores"} <= set(written["machine"])


def test_no_record_of_a_failure(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), run_record(tmp_path / "out.csv", "predict", {}):
        raise RuntimeError
    assert os.listdir(tmp_path) == []


def test_an_unwritable_place_is_found_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(VibronicError, match="cannot write"), run_record(tmp_path / "file" / "out.csv", "predict", {}):
        pytest.fail("the work has begun")


def test_versions_are_not_empty() -> None:
    assert all(versions().values())
