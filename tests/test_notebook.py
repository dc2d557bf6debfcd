"""docs/scan_to_figure.ipynb, from its first cell to its last."""

import json

import pytest
from conftest import ROOT

NOTEBOOK = json.loads((ROOT / "docs" / "scan_to_figure.ipynb").read_text(encoding="utf-8"))
CELLS = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_nothing_that_a_run_left_is_kept():
    assert NOTEBOOK["nbformat"] == 4 and CELLS
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in CELLS)


def test_the_notebook_runs_from_scan_to_figure(tmp_path, monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")  # no window
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "notebook"}
    for number, cell in enumerate(CELLS, start=1):
        exec(compile("".join(cell["source"]), f"code cell {number}", "exec"), names)
    assert (tmp_path / "scan_to_figure" / "picture.png").stat().st_size > 10_000
    assert names["mask_file"].is_file() and 0 <= names["scores"]["kidney_dice"] <= 1
