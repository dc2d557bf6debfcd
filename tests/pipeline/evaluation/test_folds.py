"""Cross-validation: who is in which fold, what the trainings leave, and which post-processing they speak for."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from kits_unet3d.pipeline.cli import main
from kits_unet3d.pipeline.data import Index, RawCase, evaluation_list, folds_of, training_list
from kits_unet3d.pipeline.device import resolve
from kits_unet3d.pipeline.evaluation import KITS23, Scores
from kits_unet3d.pipeline.evaluation.cross_validation import (
    Choice,
    choose_postprocessing,
    out_of_fold_masks,
    score_masks,
)
from kits_unet3d.pipeline.evaluation.fold_results import FoldResult, read_results, require_alike
from kits_unet3d.pipeline.inference import PostProcessing
from kits_unet3d.pipeline.runtime.errors import CaseError, UsageError
from kits_unet3d.transforms import PreprocessingParameters


def index(labels, evaluation=()):
    """An index whose training cases have label maps of these names."""
    cases = {
        case_id: {"split": "training", "boxes": {}, "source_sha256": {"image": case_id, "label": label}}
        for case_id, label in labels.items()
    }
    cases |= {case_id: {"split": "evaluation", "boxes": {}} for case_id in evaluation}
    return Index(Path("data"), "test", PreprocessingParameters(), cases)


SEVEN = {f"case_{n:05d}": str(n % 10_000) for n in (1, 2, 3, 4, 10_001, 20_001, 10_003)}


def test_cases_of_one_label_map_share_a_fold_assigned_in_turn():
    of = folds_of(index(SEVEN).cases, 3)
    assert {n: of[f"case_{n:05d}"] for n in (1, 10_001, 20_001, 2, 3, 10_003, 4)} == {
        1: 0, 10_001: 0, 20_001: 0, 2: 1, 3: 2, 10_003: 2, 4: 0
    }  # fmt: skip
    assert folds_of(dict(reversed(index(SEVEN).cases.items())), 3) == of  # the order of the index says nothing


def test_one_scan_under_two_names_is_in_one_fold():
    """Also through a third case: b has the scan of a and the label map of d."""
    hashes = {"a": ("1", "1"), "b": ("1", "2"), "c": ("3", "3"), "d": ("4", "2"), "e": ("5", "5")}
    cases = {
        case_id: {"split": "training", "boxes": {}, "source_sha256": {"image": image, "label": label}}
        for case_id, (image, label) in hashes.items()
    }
    assert folds_of(cases, 3) == {"a": 0, "b": 0, "d": 0, "c": 1, "e": 2}
    with pytest.raises(UsageError, match="3 different training case"):
        folds_of(cases, 4)


def test_folds_hold_out_each_training_case_once_and_no_evaluation_case():
    whole = index(SEVEN, evaluation=["case_00000", "case_00005"])
    held_out = []
    for fold in range(3):
        trained, evaluated = (
            [case["case_id"] for case in cases(whole, fold, 3)] for cases in (training_list, evaluation_list)
        )
        assert sorted(trained + evaluated) == sorted(SEVEN)
        held_out += evaluated
    assert sorted(held_out) == sorted(SEVEN)
    assert [case["case_id"] for case in training_list(whole)] == sorted(SEVEN)
    assert [case["case_id"] for case in evaluation_list(whole)] == ["case_00000", "case_00005"]


@pytest.mark.parametrize(
    ("fold", "folds", "match"),
    [
        (3, 3, "3 of 3"),
        (-1, 3, "-1 of 3"),
        ("a", 3, "a of 3"),
        (0, 1, "at least 2"),
        (0, 5, "4 different training case"),
    ],
)
def test_a_fold_that_there_is_not_is_refused(fold, folds, match):
    with pytest.raises(UsageError, match=match):
        training_list(index(SEVEN), fold, folds)


def test_an_index_that_cannot_be_used_has_no_cases_in_any_fold():
    assert training_list(Index.or_empty("nowhere"), 0, 5) == evaluation_list(Index.or_empty("nowhere"), 0, 5) == []


def result(directory, fold=0, folds=2, trained=("b",), held_out=("a",)):
    made = FoldResult(directory, fold, folds, list(trained), list(held_out))
    made.write()
    return directory


def test_results_are_read_in_order_of_folds_wherever_they_lie(tmp_path):
    second = result(tmp_path / "x", 1, trained=["a"], held_out=["b"])
    first = result(tmp_path / "y", 0)
    assert [one.directory for one in read_results([second, first])] == [first, second]
    (tmp_path / "y").rename(tmp_path / "z")
    assert read_results([tmp_path / "z"])[0].checkpoint == tmp_path / "z" / "models" / "model_final.pt"


@pytest.mark.parametrize(
    ("other", "match"),
    [
        ({"fold": None}, "was trained on all cases"),
        ({"folds": 3}, "name the trainings of one cross-validation"),
        ({}, "a was held out in .* too"),
        ({"fold": 1, "held_out": ["b"]}, "b was both trained on and held out"),
    ],
)
def test_results_that_do_not_belong_together_are_refused(tmp_path, other, match):
    directories = [result(tmp_path / "one"), result(tmp_path / "two", **other)]
    with pytest.raises(UsageError, match=match):
        read_results(directories)


def test_trainings_by_different_recipes_or_on_different_data_are_refused(tmp_path):
    said = {"loss": {"a": 1}, "sources": "c9d0", "fold": "0 of 2", "seed": 1, "training_cases": 3, "epoch_length": 2}

    def trained(name, number, **other):
        (tmp_path / name / "models").mkdir(parents=True)
        torch.save({"model": {}, "configuration": said | other}, tmp_path / name / "models" / "model_final.pt")
        return FoldResult(tmp_path / name, number, 2, [], [])

    first = trained("first", 0)
    require_alike([first, trained("second", 1, fold="1 of 2", seed=2, training_cases=4, epoch_length=3)])
    with pytest.raises(UsageError, match=r"other: was not trained like .*first \(loss::a, sources\)"):
        require_alike([first, trained("other", 1, loss={"a": 2}, sources="ffff", fold="1 of 2")])


def test_a_directory_without_a_finished_training_is_named(tmp_path):
    with pytest.raises(UsageError, match="no finished training"):
        read_results([tmp_path])
    (tmp_path / "result.json").write_text('{"fold": 0}')
    with pytest.raises(UsageError, match="not usable"):
        read_results([tmp_path])


@pytest.fixture
def scored(tmp_path):
    """A case of 40×40×20 voxels of 2 mm with a kidney and a tumour of 8 voxels (64 mm³) in it, and a predicted mask
    that has both and a speck of tumour of one voxel (8 mm³) far away."""
    ground_truth = np.zeros((40, 40, 20), np.uint8)
    ground_truth[5:15, 5:15, 5:15] = 1
    ground_truth[7:9, 7:9, 7:9] = 2
    predicted = ground_truth.copy()
    predicted[30, 30, 10] = 2
    arrays = {
        "scan": np.where(ground_truth > 0, 100, -1000).astype(np.int16),
        "ground_truth": ground_truth,
        "predicted": predicted,
    }
    for name, array in arrays.items():
        nib.save(nib.Nifti1Image(array, np.diag([2.0, 2.0, 2.0, 1.0])), tmp_path / f"{name}.nii.gz")
    return tmp_path / "predicted.nii.gz", RawCase(
        "a", tmp_path / "scan.nii.gz", tmp_path / "ground_truth.nii.gz", "training"
    )


def test_the_mildest_postprocessing_of_the_best_mean_score_is_chosen(scored):
    mask, case = scored
    candidates = [PostProcessing(), PostProcessing(min_tumour_mm3=20), PostProcessing(min_tumour_mm3=60),
                  PostProcessing(min_tumour_mm3=100)]  # fmt: skip
    choice = choose_postprocessing({"a": mask}, {"a": case}, candidates)
    # As predicted 1000 of kidney ∪ tumour and 8 of tumour, and one too many of each. At 100 mm³ no tumour is left.
    assert list(choice.means.values()) == pytest.approx([(2000 / 2001 + 16 / 17) / 2, 1, 1, 1 / 2])
    assert choice.best == candidates[1]
    assert choose_postprocessing({"a": case.label}, {"a": case}).best == PostProcessing()


def test_what_a_choice_is_worth_is_told_by_cases_that_had_no_say_in_it():
    plain, small = PostProcessing(), PostProcessing(min_tumour_mm3=50.0)
    by_candidate = {plain: {"a": 0.5, "b": 0.6, "c": 0.9}, small: {"a": 0.9, "b": 0.8, "c": 0.1}}
    choice = Choice({one: Scores({case: {"dice": value} for case, value in of.items()})
                     for one, of in by_candidate.items()})  # fmt: skip
    assert choice.best == plain  # 2.0 in all against 1.8
    unseen = choice.unseen([["a", "b"], ["c"]])
    # c alone speaks for leaving all as it is, and a and b for the other
    assert {case: of["dice"] for case, of in unseen.by_case.items()} == {"a": 0.5, "b": 0.6, "c": 0.1}
    assert choice.unseen([["a", "b", "c"]]) is None


def test_what_was_chosen_is_read_by_predict_and_nothing_else_with_it(tmp_path, predict, capsys):
    chosen = tmp_path / "chosen.json"
    chosen.write_text(json.dumps({"keep_kidneys": False, "tumour_touches_kidney": True, "min_tumour_mm3": 50.0}))
    assert PostProcessing.read(chosen) == PostProcessing(tumour_touches_kidney=True, min_tumour_mm3=50.0)
    both = ["predict", "x.nii.gz", "-o", str(tmp_path / "o"), "--postprocessing", str(chosen), "--keep-kidneys"]
    assert main(both) == 2 and "leave out the other post-processing options" in capsys.readouterr().err
    for content in ("{", '{"least": 3}', "[1]", '{"min_tumour_mm3": -1}', '{"keep_kidneys": "false"}'):
        chosen.write_text(content)
        with pytest.raises(UsageError):
            PostProcessing.read(chosen)


def test_a_held_out_case_is_found_again_whatever_it_is_called(raw_phantoms, tiny_checkpoint, tmp_path):
    (tmp_path / "fold" / "models").mkdir(parents=True)
    shutil.copy(tiny_checkpoint, tmp_path / "fold" / "models" / "model_final.pt")
    cases = {}
    for case_id, source in {"Doe^Jane": "case_00000", "volume": "case_00001"}.items():
        files = [tmp_path / case_id / name for name in ("imaging.nii.gz", "segmentation.nii.gz")]
        files[0].parent.mkdir()
        for file in files:
            shutil.copy(raw_phantoms / source / file.name, file)
        cases[case_id] = RawCase(case_id, *files, "training")
    result = FoldResult(tmp_path / "fold", 0, 5, [], sorted(cases))
    masks = out_of_fold_masks(result, cases, resolve("cpu", "fp32"), "eager")
    assert sorted(masks) == ["Doe^Jane", "volume"] and masks["volume"].name == "volume_seg.nii.gz"
    assert masks["Doe^Jane"].is_file() and "Doe" not in masks["Doe^Jane"].name


def test_a_class_that_the_data_set_lacks_is_refused(scored):
    mask, case = scored
    labels = nib.load(mask)
    voxels = np.asarray(labels.dataobj).copy()
    voxels[0, 0, 0] = 3
    nib.save(nib.Nifti1Image(voxels, labels.affine, labels.header), mask)
    with pytest.raises(CaseError, match="contains the value 3, which is no class of this data set"):
        choose_postprocessing({"a": mask}, {"a": case}, [PostProcessing()])
    choose_postprocessing({"a": mask}, {"a": case}, [PostProcessing()], KITS23)


def test_kits23_is_judged_by_its_hierarchy_with_surfaces_and_lesions(scored):
    mask, case = scored
    candidates = [PostProcessing(), PostProcessing(min_tumour_mm3=20), PostProcessing(min_tumour_mm3=100)]
    choice = choose_postprocessing({"a": mask}, {"a": case}, candidates, KITS23)
    # The cyst, which both lack, has a Dice of 1 that does not count.
    assert list(choice.means.values()) == pytest.approx([(2000 / 2001 + 2 * 16 / 17) / 3, 1, 1 / 3])
    assert choice.chosen_by_others([["a"]]) == {}
    plain = score_masks({"a": mask}, {"a": case}, {"a": PostProcessing()}, KITS23)
    assert 0.9 < plain.by_case["a"]["masses_surface_dice"] < 1 and plain.by_case["a"]["cyst_surface_dice"] == 1
    sizes = plain.as_dict()["detection"]["by_size"]["tumour"]
    assert sizes["0-10"]["found"] == sizes["all"]["lesions"] == 1
    chosen = score_masks({"a": mask}, {"a": case}, {"a": candidates[1]}, KITS23)
    assert chosen.by_case["a"]["masses_surface_dice"] == 1
