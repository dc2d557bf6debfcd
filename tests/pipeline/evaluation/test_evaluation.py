"""Surfaces by hand, the command's files, and the bundle's evaluation in one process and in many."""

import contextlib
import csv
import io
import json
import multiprocessing
import os
import socket
from concurrent.futures import ProcessPoolExecutor

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from conftest import ROOT, TINY
from monai.bundle import ConfigWorkflow
from monai.transforms import Compose

from kits_unet3d.networks import UNet3D
from kits_unet3d.pipeline import training
from kits_unet3d.pipeline.cli import main
from kits_unet3d.pipeline.data import Index, OpenPreprocessedd
from kits_unet3d.pipeline.device import resolve
from kits_unet3d.pipeline.evaluation import Scores, kits19_scores, start, surface_scores
from kits_unet3d.pipeline.evaluation.directories import score_directories
from kits_unet3d.pipeline.inference import ReferenceWindows
from kits_unet3d.pipeline.runtime.errors import UsageError
from kits_unet3d.pipeline.runtime.output import device_line
from kits_unet3d.transforms import component_boxes, evaluation

SPACING = (3.0, 1.0, 2.0)
#: What an evaluation's configuration imports.
ROOMS = ("data", "evaluation", "inference", "training")


def mask(*corners, size=1, shape=(16, 16, 16)):
    """Cubes of ``size`` voxels at the given corners."""
    array = np.zeros(shape, bool)
    for corner in corners:
        array[tuple(slice(c, c + size) for c in corner)] = True
    return array


def moved(corner, axis):
    return tuple(c + (i == axis) for i, c in enumerate(corner))


@pytest.mark.parametrize("axis", range(3))
def test_a_cube_moved_by_a_voxel_is_that_voxels_size_away(axis):
    # 9 of the 26 outer voxels of a 3³ cube stick out by one voxel: more than 5 %.
    ground_truth, predicted = mask((4, 4, 4), size=3), mask(moved((4, 4, 4), axis), size=3)
    assert surface_scores(predicted, ground_truth, SPACING)["hd95_mm"] == pytest.approx(SPACING[axis])


def test_hausdorffs_distance_leaves_the_farthest_twentieth_out():
    ground_truth = np.zeros((16, 16, 16), bool)
    ground_truth[:10, :10, 2] = True  # 100 voxels
    predicted = ground_truth.copy()
    predicted[0, 0, 7] = True  # 5 voxels of 2 mm away
    assert surface_scores(predicted, ground_truth, SPACING)["hd95_mm"] == 0.0
    predicted[0, 2:12:2, 7] = True  # 6 such among 106: the 95th percentile is 3/4 of the way from 0 to 10 mm
    assert surface_scores(predicted, ground_truth, SPACING)["hd95_mm"] == pytest.approx(7.5)


@pytest.mark.parametrize(("axis", "share_at_1mm"), [(0, 1 / 3), (1, 2 / 3), (2, 1 / 3)])
def test_surface_dice_counts_the_surface_within_the_tolerance(axis, share_at_1mm):
    # Two voxels in truth, one predicted, a voxel off; all three have the same surface S. Half of the predicted S
    # and half of its neighbour's coincide, the other halves are a voxel apart: (S/2 + S/2) / 3S or (S + S) / 3S.
    ground_truth, predicted = mask((2, 2, 2), (12, 12, 12)), mask(moved((2, 2, 2), axis))
    scores = surface_scores(predicted, ground_truth, SPACING)
    assert scores["surface_dice_1mm"] == pytest.approx(share_at_1mm)
    assert scores["surface_dice_3mm"] == pytest.approx(2 / 3)  # 3 mm is within 3 mm


def test_a_rotated_header_does_not_put_a_neighbour_beyond_the_tolerance():
    scores = surface_scores(mask((2, 2, 2)), mask((3, 2, 2)), (3.0000002, 1.0, 2.0))
    assert scores["surface_dice_3mm"] == 1.0


def test_two_empty_masks_agree_and_to_one_empty_mask_there_is_no_distance():
    nothing, something = mask(), mask((2, 2, 2))
    assert surface_scores(nothing, nothing, SPACING) == {
        "hd95_mm": 0.0, "surface_dice_1mm": 1.0, "surface_dice_3mm": 1.0,
    }  # fmt: skip
    for pair in ((nothing, something), (something, nothing)):
        assert surface_scores(*pair, SPACING) == {"hd95_mm": None, "surface_dice_1mm": 0.0, "surface_dice_3mm": 0.0}


def test_a_mean_leaves_out_what_is_not_defined_and_says_so():
    scores = Scores({"a": {"hd95_mm": 1.0}, "b": {"hd95_mm": None}, "c": {"hd95_mm": 4.0}})
    assert (scores.mean, scores.counted) == ({"hd95_mm": 2.5}, {"hd95_mm": 2})
    assert Scores({"b": {"hd95_mm": None}}).mean == {"hd95_mm": None}
    assert Scores().mean == {}


def test_background_around_a_scan_changes_no_score():
    random = np.random.default_rng(5)
    ground_truth, predicted = (random.integers(0, 3, (6, 7, 8)).astype(np.uint8) for _ in range(2))
    scores = kits19_scores(predicted, ground_truth, SPACING)
    assert list(scores)[:5] == [
        "kidney_dice", "kidney_hd95_mm", "kidney_surface_dice_1mm", "kidney_surface_dice_3mm", "tumour_dice",
    ]  # fmt: skip
    assert 0 < scores["tumour_surface_dice_1mm"] < 1
    assert kits19_scores(np.pad(predicted, 5), np.pad(ground_truth, 5), SPACING) == pytest.approx(scores)


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0), (1.0, 0.0, 1.0), (1.0, float("nan"), 1.0)])
def test_a_spacing_that_is_none_is_refused(spacing_mm):
    with pytest.raises(ValueError, match="spacing_mm must be 3 positive numbers"):
        surface_scores(mask((2, 2, 2)), mask((2, 2, 2)), spacing_mm)


def strict_json(path):
    """JSON as the standard has it: without NaN and infinity."""
    return json.loads(path.read_text(), parse_constant=pytest.fail)


def test_the_command_writes_each_case_and_the_means_as_json_and_csv(tmp_path, raw_phantoms, capsys):
    masks = tmp_path / "masks"
    masks.mkdir()
    for case, change in {
        "case_00000": lambda ground_truth: ground_truth,
        "case_00001": lambda ground_truth: np.where(ground_truth == 2, 1, ground_truth),  # no tumour found
        "case_00002": lambda ground_truth: np.where(ground_truth == 2, 3, ground_truth),  # another data set's class
    }.items():
        ground_truth = nib.load(raw_phantoms / case / "segmentation.nii.gz")
        changed = change(np.asanyarray(ground_truth.dataobj)).astype(np.uint8)
        nib.save(nib.Nifti1Image(changed, ground_truth.affine), masks / f"{case}_seg.nii.gz")
    out = tmp_path / "scores.json"
    assert main(["evaluate", "--predictions", str(masks), "--labels", str(raw_phantoms), "-o", str(out)]) == 1
    printed = capsys.readouterr()
    written = strict_json(out)
    assert "case_00002_seg.nii.gz: contains" in written["failed"]["case_00002"] and "value 3" in printed.err
    perfect = {"dice": 1.0, "hd95_mm": 0.0, "surface_dice_1mm": 1.0, "surface_dice_3mm": 1.0}
    missed = {"dice": 0.0, "hd95_mm": None, "surface_dice_1mm": 0.0, "surface_dice_3mm": 0.0}
    kidney = {f"kidney_{name}": value for name, value in perfect.items()}
    assert written["cases"] == {
        "case_00000": kidney | {f"tumour_{name}": value for name, value in perfect.items()},
        "case_00001": kidney | {f"tumour_{name}": value for name, value in missed.items()},
    }
    assert written["mean"]["tumour_dice"] == 0.5 and written["mean"]["tumour_hd95_mm"] == 0.0
    assert written["counted"]["tumour_dice"] == 2 and written["counted"]["tumour_hd95_mm"] == 1
    with open(tmp_path / "scores.csv", newline="") as stream:
        rows = {row.pop("case_id"): row for row in csv.DictReader(stream)}
    assert list(rows) == ["case_00000", "case_00001", "mean", "counted"]
    assert rows["case_00001"]["tumour_hd95_mm"] == "" and rows["mean"]["tumour_dice"] == "0.5"
    assert "tumour_hd95_mm is undefined where exactly one mask is empty: mean of 1 of 2 cases" in printed.out
    assert "case_00001   tumour  dice 0.0000  hd95_mm none" in printed.out


@pytest.mark.parametrize("ending", [".nii", ".nrrd", ".mha"])
def test_masks_are_scored_in_every_format_that_predict_writes(ending, raw_phantoms, tmp_path):
    ground_truth = sitk.ReadImage(str(raw_phantoms / "case_00000" / "segmentation.nii.gz"))
    sitk.WriteImage(ground_truth, str(tmp_path / f"case_00000_seg{ending}"))
    scores, failed = score_directories(tmp_path, raw_phantoms)
    assert not failed and scores.by_case["case_00000"]["kidney_dice"] == 1
    sitk.WriteImage(ground_truth, str(tmp_path / "case_00000.nii.gz"))
    with pytest.raises(UsageError, match="case_00000 also has the mask"):
        score_directories(tmp_path, raw_phantoms)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(4)  # predicts some of each class
    path = tmp_path_factory.mktemp("model") / "model.pt"
    description = {"_target_": "kits_unet3d.networks.UNet3D", "channels": [2, 4]}
    torch.save(
        {"model": UNet3D(channels=(2, 4)).state_dict(), "network": description, "preprocessing_parameters": TINY}, path
    )
    return path


@pytest.fixture(scope="module")
def seven_cases(tmp_path_factory, preprocessed_phantoms, tiny_parameters):
    """Seven evaluation cases of seven sizes, cut out of the five phantoms."""
    directory, source = tmp_path_factory.mktemp("seven"), Index.read(preprocessed_phantoms)
    index = Index(directory, source.name, source.parameters)
    for k in range(7):
        case_id = f"case_{k % 5:05d}"
        for key in "xy":
            array = np.load(preprocessed_phantoms / f"{case_id}_{key}.npy")
            array = array[:, :, 16 - k : 56, 8 + k : 64]
            np.save(directory / f"case_{k:05d}_{key}.npy", array)
        boxes = {str(number): found for number, found in component_boxes(array[0]).items()}
        changed = {"split": "evaluation", "shape": array.shape[1:], "boxes": boxes}
        index.cases[f"case_{k:05d}"] = source.cases[case_id] | changed
    index.write()
    return directory


def evaluate_as(rank, processes, port, options):
    """One process of an evaluation, with what torchrun would tell it; returns what it prints."""
    if processes > 1:
        group = {"RANK": rank, "WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in group.items()})
    # One thread, so that a voxel between two classes falls to the same side every time.
    torch.set_num_threads(1)
    os.chdir(ROOT)
    configs = ["bundle/configs/train.json", "bundle/configs/evaluate.json"]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        monai.bundle.run("evaluating", config_file=configs, logging_file=False, device_name="cpu", **options)
    return printed.getvalue()


def evaluate(processes, **options):
    """Runs the bundle's evaluation in so many new processes, which share one import of everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["monai.bundle", *(f"kits_unet3d.pipeline.{room}" for room in ROOMS)])
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        running = [pool.submit(evaluate_as, rank, processes, port, options) for rank in range(processes)]
        return "".join(process.result(timeout=300) for process in running)


def test_evaluating_and_training_begin_with_a_line_about_the_device(preprocessed_phantoms, tiny_parameters, caplog):
    caplog.set_level("INFO", "kits_unet3d")
    accelerator, index = resolve("cpu"), Index.read(preprocessed_phantoms)
    scored, learnt = index.data_list("evaluation"), index.data_list("training")
    start(preprocessed_phantoms, tiny_parameters, accelerator, scored)
    training.start(preprocessed_phantoms, tiny_parameters, accelerator, 1, learnt, scored)
    assert caplog.messages == [device_line(accelerator.describe())] * 2


@pytest.mark.slow
def test_bundle_scores_are_equal_with_one_two_and_five_processes(checkpoint, seven_cases, tmp_path):
    # What each case scores, without evaluator and configuration.
    parameters, network = Index.read(seven_cases).parameters, UNet3D(channels=(2, 4)).eval()
    network.load_state_dict(torch.load(checkpoint, weights_only=True)["model"])
    windows = ReferenceWindows(parameters.roi_size)
    opened = Compose([OpenPreprocessedd(["image", "label"]), evaluation(parameters)])
    expected = {}
    for case in map(opened, Index.read(seven_cases).data_list("evaluation")):
        with torch.no_grad():
            predicted = np.asarray(windows(torch.as_tensor(case["image"])[None], network)[0].argmax(0))
        label = np.asarray(case["label"])[0]
        expected[case["case_id"]] = [
            2 * ((predicted == c) & (label == c)).sum() / ((predicted == c).sum() + (label == c).sum()) for c in (1, 2)
        ]
    assert len({tuple(scores) for scores in expected.values()}) == 7 and np.all(np.mean(list(expected.values()), 0) > 0)

    results = {}
    for processes in (1, 2, 5):
        out = tmp_path / str(processes)
        printed = evaluate(processes, ckpt_path=str(checkpoint), dataset_dir=str(seven_cases), output_dir=str(out))
        assert printed.count("mean over 7 cases") == 1
        assert sorted(path.name for path in out.iterdir()) == ["scores.csv", "scores.json"]
        results[processes] = strict_json(out / "scores.json")
        assert results[processes]["device"]["device"] == "cpu"
    for result in results.values():
        assert list(result["cases"]) == sorted(expected)
        for case_id, scores in result["cases"].items():
            # A voxel more or less: these sums run on another number of threads.
            assert [scores["L1_dice"], scores["L2_dice"]] == pytest.approx(expected[case_id], abs=1e-4)
        for name, value in result["mean"].items():
            assert value == pytest.approx(np.mean([scores[name] for scores in result["cases"].values()]), abs=1e-12)
            assert abs(value - results[1]["mean"][name]) < 1e-7
    mean = results[1]["mean"]
    assert mean["mean_dice"] == pytest.approx((mean["L1_dice"] + mean["L2_dice"]) / 2)


def stopped(capsys, **overrides):
    """Exit code and message of an evaluation that cannot be."""
    configs = [str(ROOT / "bundle" / "configs" / name) for name in ("train.json", "evaluate.json")]
    workflow = ConfigWorkflow(config_file=configs, logging_file=False, device_name="cpu", **overrides)
    workflow.initialize()
    with pytest.raises(SystemExit) as stop:
        workflow.run()
    return stop.value.code, capsys.readouterr().err


def test_an_evaluation_without_model_or_data_ends_in_a_sentence(checkpoint, tmp_path, preprocessed_phantoms, capsys):
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes(b"not a checkpoint")
    given = {"dataset_dir": str(preprocessed_phantoms), "output_dir": str(tmp_path / "out")}
    code, message = stopped(capsys, **given, ckpt_path=str(tmp_path / "none.pt"))
    assert code == 3 and "none.pt: no such checkpoint" in message and "--ckpt_path" in message
    code, message = stopped(capsys, **given, ckpt_path=str(damaged))
    assert code == 3 and "damaged.pt: " in message
    code, message = stopped(capsys, **given | {"dataset_dir": str(tmp_path / "none")}, ckpt_path=str(checkpoint))
    assert code == 2 and "kits-unet3d prepare" in message
    assert not (tmp_path / "out").exists()


def test_data_with_another_spacing_or_without_evaluation_cases_are_refused(tmp_path, tiny_parameters, capsys):
    Index(tmp_path, "phantoms", tiny_parameters).write()
    for parameters, reason in (
        (type(tiny_parameters)(), "spacing_mm"),
        (tiny_parameters, "0 evaluation case(s) for 1 process"),
    ):
        with pytest.raises(SystemExit) as stop:
            start(tmp_path, parameters, None, [])
        assert stop.value.code == 2 and reason in capsys.readouterr().err
