"""Recipes set against each other: hand-worked means, intervals that are known, and the tables made of score files."""

import json

import numpy as np
import pytest
from conftest import ROOT
from scipy.stats import t

from kits_unet3d.pipeline.evaluation.comparison import Runs, paired_interval
from kits_unet3d.pipeline.runtime.errors import UsageError


def scores(directory, name, by_case, failed=()):
    """A file as `kits-unet3d evaluate --output` writes it, of tumour Dice by case."""
    path = directory / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    cases = {case: {"tumour_dice": value} for case, value in by_case.items()}
    path.write_text(json.dumps({"cases": cases, "failed": {case: "why" for case in failed}}))
    return path


def test_mean_and_spread_are_over_seeds_of_means_over_cases(tmp_path):
    files = [
        scores(tmp_path, "1", {"a": 0.2, "b": 0.4}),  # 0.3
        scores(tmp_path, "2", {"a": 0.4, "b": 0.6}),  # 0.5
        scores(tmp_path, "3", {"b": 0.8, "a": 0.6}),  # 0.7, in another order
    ]
    runs = Runs.read("dynunet_ds", files)
    assert runs.cases == ["a", "b"]
    np.testing.assert_allclose(runs.table("tumour_dice"), [[0.2, 0.4], [0.4, 0.6], [0.6, 0.8]])
    assert runs.mean("tumour_dice") == pytest.approx(0.5)
    assert runs.spread("tumour_dice") == pytest.approx(0.2)  # of 0.3, 0.5, 0.7 with n - 1
    assert Runs.read("dynunet_ds", files[:1]).spread("tumour_dice") is None


def test_a_case_without_a_score_is_left_out_of_its_seeds_mean(tmp_path):
    runs = Runs.read(
        "dynunet_ds", [scores(tmp_path, "1", {"a": None, "b": 0.4}), scores(tmp_path, "2", {"a": 0.2, "b": 0.6})]
    )
    assert runs.mean("tumour_dice") == pytest.approx(0.4) and runs.counted("tumour_dice") == 1
    nothing = Runs.read("dynunet_ds", [scores(tmp_path, "3", {"a": None})])
    assert nothing.mean("tumour_dice") is None and nothing.spread("tumour_dice") is None


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ([{"a": 0.1}, {"b": 0.1}], r"has the cases \['b'\], but the first file \['a'\]"),
        ([{}], "has the cases"),
        ([], "dynunet_ds: scores are missing"),
    ],
)
def test_scores_of_other_cases_are_refused(tmp_path, contents, message):
    files = [scores(tmp_path, str(number), content) for number, content in enumerate(contents)]
    with pytest.raises(UsageError, match=message):
        Runs.read("dynunet_ds", files)


def test_what_is_no_score_file_or_has_failed_cases_is_refused(tmp_path):
    (tmp_path / "no.json").write_text("[]")
    for path in (tmp_path / "no.json", tmp_path / "missing.json"):
        with pytest.raises(UsageError, match="not a score file of `kits-unet3d evaluate`"):
            Runs.read("dynunet_ds", [path])
    with pytest.raises(UsageError, match="a failed; score all cases first"):
        Runs.read("dynunet_ds", [scores(tmp_path, "failed", {"b": 0.1}, failed=["a"])])
    with pytest.raises(UsageError, match="a case lacks the score kidney_dice"):
        Runs.read("dynunet_ds", [scores(tmp_path, "1", {"a": 0.1})]).table("kidney_dice")


def test_one_case_and_one_seed_leave_nothing_to_chance():
    assert paired_interval(np.array([[0.7]]), np.array([[0.5]])) == pytest.approx((0.2, 0.2, 0.2, 1))


def test_two_cases_span_the_interval():
    """Drawn twice in a quarter of the resamples each, both ends lie within 95 %."""
    found = paired_interval(np.array([[0.5, 0.9]]), np.array([[0.4, 0.5]]))
    assert found == pytest.approx((0.25, 0.1, 0.4, 2)) and found.verdict == "above"


def test_cases_are_paired_and_seeds_are_not():
    """However much cases differ from each other, a constant gap between recipes is certain; seeds that differ are not
    cancelled by those of the other recipe, though both are numbered alike.
    """
    cases = np.linspace(0.1, 0.9, 8)
    sure = paired_interval(np.stack([cases + 0.05] * 3), np.stack([cases] * 3))
    assert sure == pytest.approx((0.05, 0.05, 0.05, 8)) and sure.verdict == "above"
    shifts = np.array([[-0.3], [0.0], [0.3]])
    unsure = paired_interval(cases + 0.05 + shifts, cases + shifts)
    assert unsure.low < -0.2 and unsure.high > 0.3 and unsure.verdict == "open"


def test_seeds_of_the_same_networks_are_paired():
    cases, shifts = np.linspace(0.1, 0.9, 8), np.array([[-0.3], [0.0], [0.3]])
    sure = paired_interval(cases + 0.05 + shifts, cases + shifts, same_networks=True)
    assert sure == pytest.approx((0.05, 0.05, 0.05, 8)) and sure.verdict == "above"
    with pytest.raises(ValueError, match="as many seeds"):
        paired_interval(cases + shifts, cases[None], same_networks=True)


def test_the_interval_of_many_cases_is_that_of_the_normal_law():
    """Mean ± 1.96 s / √n; the other way round it is mirrored."""
    difference = np.random.default_rng(3).normal(-0.1, 0.2, 400)
    base = np.full((1, 400), 0.5)
    found = paired_interval(base + difference, base)
    half = 1.96 * difference.std() / 20
    assert found.low == pytest.approx(difference.mean() - half, abs=0.002)
    assert found.high == pytest.approx(difference.mean() + half, abs=0.002)
    assert found.verdict == "below" and paired_interval(base, base + difference).verdict == "above"


def test_the_interval_of_few_cases_is_about_students():
    rng = np.random.default_rng(1)
    difference = rng.normal(0.1, 0.2, size=(1, 8))
    interval = paired_interval(difference, np.zeros((1, 8)))
    half = t.ppf(0.975, 7) * difference.std(ddof=1) / np.sqrt(8)
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.12)


def test_the_spread_of_seeds_is_in_the_interval():
    """Of cases all alike and two seeds a recipe, 0 and 1: the difference of two means of two, each 0, 1/2 or 1."""
    seeds = np.repeat([[0.0], [1.0]], 5, axis=1)
    assert paired_interval(seeds, seeds) == pytest.approx((0, -1, 1, 5))


def test_cases_that_either_recipe_has_no_score_for_are_left_out():
    first, second = np.array([[1.0, np.nan, 3.0]]), np.array([[0.0, 0.0, np.nan]])
    assert paired_interval(first, second) == pytest.approx((1, 1, 1, 1))
    with pytest.raises(ValueError, match="no case has a score"):
        paired_interval(first[:, 1:2], second[:, 1:2])


@pytest.mark.parametrize(
    ("first", "second", "options", "message"),
    [
        (np.zeros((1, 2)), np.zeros((1, 3)), {}, "of the same cases"),
        (np.zeros(2), np.zeros(2), {}, "of the same cases"),
        (np.zeros((1, 2)), np.zeros((1, 2)), {"resamples": 0}, "resamples must be positive"),
        (np.zeros((1, 2)), np.zeros((1, 2)), {"level": 1.0}, "level between 0 and 1"),
    ],
)
def test_tables_that_do_not_go_together_are_refused(first, second, options, message):
    with pytest.raises(ValueError, match=message):
        paired_interval(first, second, **options)


def test_the_same_seed_gives_the_same_interval():
    rng = np.random.default_rng(0)
    tables = rng.uniform(size=(2, 3, 8))
    assert paired_interval(*tables, seed=4) == paired_interval(*tables, seed=4) != paired_interval(*tables, seed=5)


NAMES = [f"{part}_{score}" for part in ("kidney", "tumour") for score in ("dice", "surface_dice_3mm", "hd95_mm")]


@pytest.fixture
def summarise(monkeypatch):
    """The function of scripts/compare, which is no package."""
    monkeypatch.syspath_prepend(ROOT / "scripts" / "compare")
    from summary import summarise

    return summarise


def test_the_summary_contains_what_the_score_files_contain(summarise, tmp_path):
    """Two recipes of two seeds, one of which has mirrored predictions and an ensemble; no trainings, no pictures."""
    values = {"mlperf": (0.5, 0.6), "dynunet_ds": (0.7, 0.8)}
    for recipe, by_seed in values.items():
        for seed, value in enumerate(by_seed, start=1):
            directory = tmp_path / recipe / f"seed_{seed}"
            (directory / "curves").mkdir(parents=True)
            (directory / "curves" / "loss.csv").write_text("seconds,loss\n0.5,1.0\n1.0,0.9\n1.5,0.8\n")
            for variant in ("plain", "tta") if recipe == "dynunet_ds" else ("plain",):
                more = 0.1 if variant == "tta" else 0.0
                cases = {f"case_{number:05d}": dict.fromkeys(NAMES, value + more) for number in range(41, 47)}
                if recipe == "mlperf":  # it finds no tumour in the last
                    cases["case_00046"]["tumour_hd95_mm"] = None
                (directory / f"{variant}.json").write_text(json.dumps({"cases": cases}))
    ours = tmp_path / "dynunet_ds"
    (ours / "ensemble_1_2.json").write_text((ours / "seed_2" / "tta.json").read_text())
    (tmp_path / "mlperf" / "ensemble_1_2_3.json").write_text("of other seeds")
    summarise(tmp_path, ["mlperf", "dynunet_ds"], [1, 2], figures=False)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["means"]["dynunet_ds plain"]["tumour_dice"] == pytest.approx({"mean": 0.75, "spread": 0.05 * 2**0.5})
    assert summary["means"]["dynunet_ds ensemble"]["tumour_dice"] == {"mean": pytest.approx(0.9), "spread": None}
    assert list(summary["differences"]) == [
        "dynunet_ds plain − mlperf plain", "dynunet_ds tta − dynunet_ds plain",
        "dynunet_ds ensemble − dynunet_ds plain",
    ]  # fmt: skip
    gap = summary["differences"]["dynunet_ds plain − mlperf plain"]["tumour_dice"]
    # seeds drawn apart: from 0.7 - 0.6 to 0.8 - 0.5
    assert gap == pytest.approx(
        {"difference": 0.2, "low": 0.1, "high": 0.3, "cases": 6, "verdict": "above", "sure": True}
    )
    few = summary["differences"]["dynunet_ds plain − mlperf plain"]["tumour_hd95_mm"]
    assert (few["cases"], few["verdict"], few["sure"]) == (5, "above", False)
    # the same networks, seed by seed 0.1 more
    mirrored = summary["differences"]["dynunet_ds tta − dynunet_ds plain"]["kidney_dice"]
    assert (mirrored["low"], mirrored["high"]) == pytest.approx((0.1, 0.1))
    assert summary["speed"]["dynunet_ds"] == {"step_seconds": 0.5, "steps": 3, "seconds": 1.5}
    text = (tmp_path / "summary.md").read_text()
    assert "| dynunet_ds, plain | 0.750 ± 0.071 |" in text and "| case_00041 | 0.550 / 0.550 | 0.750 / 0.750 |" in text
    assert "| dynunet_ds plain − mlperf plain | **+0.200 (+0.100 to +0.300)** |" in text
    assert "| 0.6 ± 0.1 [5 of 6] |" in text and "| +0.2 (+0.1 to +0.3) [5 of 6] |" in text


def test_scores_of_different_cases_are_not_compared(summarise, tmp_path):
    for recipe, numbers in {"mlperf": (1, 2), "dynunet_ds": (1, 3)}.items():
        (tmp_path / recipe / "seed_1").mkdir(parents=True)
        cases = {f"case_{number:05d}": dict.fromkeys(NAMES, 0.5) for number in numbers}
        (tmp_path / recipe / "seed_1" / "plain.json").write_text(json.dumps({"cases": cases}))
    with pytest.raises(UsageError, match="dynunet_ds plain has scores of case_00001, case_00003, but mlperf plain of"):
        summarise(tmp_path, ["mlperf", "dynunet_ds"], [1])


def test_a_summary_without_scores_is_refused(summarise, tmp_path):
    with pytest.raises(UsageError, match="no scores of mlperf there"):
        summarise(tmp_path, ["mlperf"], [1])
