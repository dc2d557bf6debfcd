"""The phantoms' contrast: KiTS19's phase to the byte as before, or widely drawn."""

import json

import nibabel as nib
import numpy as np
import pytest

from kits_unet3d.pipeline.cli import main
from kits_unet3d.pipeline.phantoms import make_phantom, write_dataset
from kits_unet3d.pipeline.phantoms.patient import Attenuation

TINY = {"shape": (20, 40, 40), "spacing_mm": (8.0, 8.0, 8.0)}


def drawn(contrast: str, count: int = 400) -> list[Attenuation]:
    return [Attenuation.draw(np.random.default_rng([seed, 10]), contrast) for seed in range(count)]


def test_the_default_draws_what_it_always_did():
    patient = Attenuation.draw(np.random.default_rng([5, 10]))
    assert (patient.cortex, patient.medulla, patient.vein) == pytest.approx(
        (218.75224879287, 164.3437995471556, 144.52400649709102), abs=1e-9
    )
    assert patient == Attenuation.draw(np.random.default_rng([5, 10]), "enhanced")


def test_wide_contrast_runs_from_none_to_late():
    patients = drawn("wide")
    cortex = np.array([p.cortex for p in patients])
    plain = np.array([p.uptake == 0 for p in patients])
    assert 0.2 < plain.mean() < 0.3
    assert set(cortex[plain]) == {33.0} and all(p.aorta == 42 for p in patients if p.uptake == 0)
    assert cortex[~plain].min() < 90 and cortex[~plain].max() > 220
    difference = np.array([p.cortex - p.medulla for p in patients])[~plain]
    assert difference.min() < 5 and difference.max() > 50  # the late phase has no corticomedullary difference


def test_only_what_was_enhanced_has_contrast_medium_in_the_urine():
    patients = drawn("wide")
    bright = [p for p in patients if p.urine > 12]
    assert all(p.uptake > 0 and 150 <= p.urine <= 600 for p in bright)
    assert 0.12 < len(bright) / len(patients) < 0.26  # a quarter of three quarters


def test_a_patient_of_the_default_is_enhanced():
    assert all(p.uptake == 1 and p.urine == 12 and p.cortex > 150 for p in drawn("enhanced"))


def test_the_command_makes_them_and_keeps_them_apart(tmp_path, capsys):
    options = ["--cases", "1", "--shape", "20", "40", "40", "--spacing-mm", "8", "8", "8"]
    assert main(["phantom", "-o", str(tmp_path), *options, "--contrast", "wide"]) == 0
    made = json.loads((tmp_path / "dataset.json").read_text())["made"]
    assert made["contrast"] == "wide"
    image = np.asanyarray(nib.load(tmp_path / "case_00000" / "imaging.nii.gz").dataobj)
    usual = write_dataset(tmp_path / "usual", 1, **TINY)
    assert (image != np.asanyarray(nib.load(usual[0] / "imaging.nii.gz").dataobj)).any()
    assert main(["phantom", "-o", str(tmp_path), *options]) == 2
    assert "choose another directory" in capsys.readouterr().err


def test_an_unknown_contrast_is_refused(tmp_path):
    with pytest.raises(ValueError, match="contrast must be one of enhanced, wide, got 'none'"):
        write_dataset(tmp_path, 1, contrast="none", **TINY)
    with pytest.raises(ValueError, match="contrast must be one of"):
        make_phantom(0, **TINY, contrast="none")
