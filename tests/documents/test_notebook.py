"""docs/scan_to_figure.ipynb, from its first cell to its last."""

import base64
import json
import re

import pytest
from conftest import ROOT

NOTEBOOK = json.loads((ROOT / "docs" / "scan_to_figure.ipynb").read_text(encoding="utf-8"))
CELLS = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_the_committed_outputs_show_a_kidney_and_the_figure():
    assert [cell["execution_count"] for cell in CELLS] == list(range(1, len(CELLS) + 1))  # run once, from the top
    outputs = [output for cell in CELLS for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    texts = "".join(
        "".join(text)
        for output in outputs
        for text in (output.get("data", {}).get("text/plain", ""), output.get("text", ""))
    )
    assert float(re.search(r"'kidney_dice': ([\d.]+)", texts)[1]) > 0.6
    assert not re.search(r"/(work|home|root|tmp)/", texts)
    (figure,) = (output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {}))
    assert 20_000 < len(base64.b64decode(figure)) < 500_000


def test_the_notebook_runs_from_scan_to_figure(tmp_path, monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")  # no window
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "notebook"}
    for number, cell in enumerate(CELLS, start=1):
        exec(compile("".join(cell["source"]), f"code cell {number}", "exec"), names)
    assert (tmp_path / "scan_to_figure" / "picture.png").stat().st_size > 10_000
    assert names["mask_file"].is_file()
    assert names["scores"]["kidney_dice"] > 0.6 and names["prediction"].volumes_ml["kidney"] > 50
