"""Plans of experiments, and the steps that are repeated only if their inputs changed."""

import json
import sys
from types import SimpleNamespace

import pytest
from conftest import ROOT

PLANS = {path.stem: path for path in (ROOT / "scripts" / "compare").glob("*.yaml")}


@pytest.fixture
def compare(monkeypatch):
    """Modules of scripts/compare, which is no package."""
    monkeypatch.syspath_prepend(ROOT / "scripts" / "compare")
    import nnunet_recipe
    import plan
    import real_cases
    import steps

    return SimpleNamespace(nnunet_recipe=nnunet_recipe, plan=plan, real_cases=real_cases, steps=steps)


def test_every_configuration_of_a_plan_is_read_by_the_training(compare, tmp_path):
    train = (ROOT / "bundle" / "configs" / "train.json").read_text()
    for path in PLANS.values():
        plan = compare.plan.read_plan(path, tmp_path)
        for name, recipe in plan.recipes.items():
            configs = [json.loads((ROOT / config).read_text()) for config in recipe.configs]
            text = train + json.dumps(configs)
            unread = {key for key in recipe.overlay if f'"{key.lstrip("+").split("#")[0].split("::")[0]}"' not in text}
            assert not unread, f"{path.name}: {name}: {unread}"


def test_the_three_plans_of_kits19_have_the_same_data_and_base(compare, tmp_path):
    """So they can share a directory, and the trainings of its folds."""
    plans = {name: compare.plan.read_plan(path, tmp_path) for name, path in PLANS.items() if name != "kits23"}
    assert plans.keys() == {"recipes", "ablation", "cross_validation"}
    assert len({str(plan.cases) for plan in plans.values()}) == 1
    assert len({(str(plan.recipes["dynunet_ds"].configs), str(plan.recipes["dynunet_ds"].overlay), plan.folds)
                for plan in plans.values()}) == 1  # fmt: skip


def test_a_detection_tabulates_structures_sizes_and_confusion(compare, capsys, tmp_path):
    from summary import summarise_detection

    counted = {"lesions": 3, "found": 2, "sensitivity": 2 / 3, "false_positives": 1, "false_positives_per_case": 0.5}
    content = {
        "mean": {"masses_dice": 0.5, "masses_hd95_mm": None, "masses_surface_dice": 0.25},
        "detection": {
            "by_size": {"cyst": {"0-10": counted}},
            "confusion": {"cyst": {"cyst": 2, "none": 1}, "none": {"cyst": 1}},
        },
    }
    (tmp_path / "kits23" / "seed_1").mkdir(parents=True)
    (tmp_path / "kits23" / "seed_1" / "plain.json").write_text(json.dumps(content))
    summarise_detection(tmp_path, ["kits23"], [1])
    text = (tmp_path / "detection.md").read_text()
    assert "| masses | 0.500 | 0.250 |" in text and "| cyst | 0-10 | 3 | 2 | 1 |" in text
    assert "| cyst | 2 | 1 |" in text and "| none | 1 | – |" in text and text.strip() in capsys.readouterr().out


def test_recipes_inherit_from_the_baseline_which_comes_first(compare, tmp_path):
    names = ["no_regions", "no_average"]
    plan = compare.plan.read_plan(PLANS["ablation"], tmp_path, changes=["minutes=3"], recipes=names)
    assert list(plan.recipes) == ["dynunet_ds", *names] and plan.minutes == 3
    assert plan.recipes["no_average"].overlay == {"precision": "bf16", "average_decay": None}
    assert plan.recipes["no_average"].configs == plan.recipes["dynunet_ds"].configs != []


def test_plain_is_kept_whatever_variants_are_chosen(compare, tmp_path):
    plan = compare.plan.read_plan(PLANS["recipes"], tmp_path, recipes=["nnunet", "dynunet_ds"], variants=["ensemble"])
    uses = {name: recipe.variants for name, recipe in plan.recipes.items()}
    assert uses == {"nnunet": ["plain"], "dynunet_ds": ["plain", "ensemble"]}


@pytest.mark.parametrize(
    ("plan", "options", "message"),
    [
        ("recipes", {"variants": ["mirrored"]}, "unknown variant mirrored; known are plain, tta"),
        ("ablation", {"recipes": ["no_region"]}, "unknown recipe no_region; known are dynunet_ds, no_deep_supervision"),
        ("ablation", {"changes": ["data.evaluations=[]"]}, "not a usable plan .*argument 'evaluations'"),
        ("ablation", {"changes": ["baseline=best"]}, "unknown recipe best"),
        ("recipes", {"changes": ["recipes.mlperf.variants=[mirrored]"]}, "unknown variant mirrored"),
        ("recipes", {"changes": ["recipes.mlperf.configs=[no.json]"]}, "the configuration no.json does not exist"),
        ("recipes", {"changes": ["minutes=0"]}, "minutes must be above 0, got 0"),
    ],
)
def test_a_plan_with_wrong_values_is_refused(compare, tmp_path, plan, options, message):
    with pytest.raises(compare.plan.UsageError, match=message):
        compare.plan.read_plan(PLANS[plan], tmp_path, **options)


def test_a_file_is_made_again_if_its_inputs_changed_or_it_failed(compare, tmp_path):
    result, made = tmp_path / "plain.json", []

    def step():
        made.append(len(made))
        result.write_text(str(made))
        if len(made) == 3:
            raise KeyboardInterrupt

    (tmp_path / "model.pt").write_text("first")
    for expected in (1, 1):
        compare.steps.make_file(result, {"networks": compare.steps.digest(tmp_path / "model.pt")}, step)
        assert len(made) == expected
    (tmp_path / "model.pt").write_text("second")
    settings = {"networks": compare.steps.digest(tmp_path / "model.pt")}
    compare.steps.make_file(result, settings, step)
    assert len(made) == 2
    with pytest.raises(KeyboardInterrupt):
        compare.steps.make_file(result, {**settings, "options": ["--tta"]}, step)
    assert not result.exists()  # neither the interrupted one nor the one before
    compare.steps.make_file(result, settings, step)
    assert len(made) == 4


def test_an_interrupted_training_starts_again_and_a_finished_one_stays(compare, tmp_path):
    directory, settings = tmp_path / "seed_1", {"minutes": 10.0, "seed": 1}

    def interrupted():
        (directory / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare.steps.make_directory(directory, "model.pt", settings, interrupted)
    # It may start again with other settings, since nothing was finished.
    compare.steps.make_directory(directory, "model.pt", {**settings, "seed": 2}, (directory / "model.pt").touch)
    assert {path.name for path in directory.iterdir()} == {"model.pt", "settings.json"}
    compare.steps.make_directory(directory, "model.pt", {**settings, "seed": 2}, interrupted)
    with pytest.raises(compare.steps.UsageError, match="was made with seed 2, not with seed 1; give another OUT"):
        compare.steps.make_directory(directory, "model.pt", settings, interrupted)


def test_a_failing_command_ends_the_experiment(compare):
    with pytest.raises(compare.steps.subprocess.CalledProcessError):
        compare.steps.run(sys.executable, "-c", "raise SystemExit(3)")


@pytest.fixture
def nnunet_environment(monkeypatch, tmp_path):
    """A directory with stand-ins for nnU-Net's programs, which is not installed here; they log how they are called."""
    programs = {
        "python": "exit 0",
        "nnUNetv2_train": """
            directory="$nnUNet_results/Dataset019_KidneyPhantoms/BudgetTrainer__nnUNetPlans__3d_fullres/fold_all"
            mkdir -p "$directory"
            echo weights >"$directory/checkpoint_final.pth"
            printf 'seconds,loss\\n1.0,%s\\n' "$BUDGET_MINUTES" >"$directory/loss.csv" """,
        "nnUNetv2_predict": """
            mkdir -p "$4"
            for scan in "$2"/*_0000.nii.gz; do
                case=$(basename "$scan" _0000.nii.gz)
                cp "$nnUNet_raw/../../raw/$case/segmentation.nii.gz" "$4/$case.nii.gz"
            done""",
    }
    (tmp_path / "nnunet" / "bin").mkdir(parents=True)
    (tmp_path / "nnunet" / ".installed-2.8.1").touch()
    for name, body in programs.items():
        path = tmp_path / "nnunet" / "bin" / name
        path.write_text(f'#!/usr/bin/env bash\nset -eu\necho "{name} $*" >>"{tmp_path}/calls"\n{body}\n')
        path.chmod(0o755)
    monkeypatch.setenv("NNUNET", str(tmp_path / "nnunet"))
    return tmp_path / "calls"


def test_nnunet_gets_the_training_scans_and_is_scored_on_the_others(
    compare, nnunet_environment, raw_phantoms, preprocessed_phantoms, tmp_path
):
    out = tmp_path / "out"
    split = json.loads((raw_phantoms / "dataset.json").read_text())
    compare.steps.link(out / "raw", raw_phantoms)
    compare.steps.link(out / "preprocessed", preprocessed_phantoms)
    for case in split["evaluation"]:
        compare.steps.link(out / "scans" / f"{case}.nii.gz", raw_phantoms / case / "imaging.nii.gz")
    cases = compare.real_cases.Cases(out, [8.0, 6.0, 6.0], [48, 32, 32], evaluation=split["evaluation"])
    nnunet, directory = compare.nnunet_recipe.NnUNet(cases, "nnunet-small", [16, 128]), out / "nnunet-small" / "seed_2"
    for _ in range(2):  # the second time all is finished
        nnunet.preprocess()
        nnunet.train(directory, minutes=0.5, seed=2)
        nnunet.predict(directory, "plain")
    planned, trained, predicted = nnunet_environment.read_text().splitlines()
    assert planned.endswith("nnunet/planner.py 19 [8.0, 6.0, 6.0] [48, 32, 32] 16 128")
    assert trained == "nnUNetv2_train 19 3d_fullres all -tr BudgetTrainer -device cpu"
    assert " -tr BudgetTrainer -chk checkpoint_final.pth " in predicted and predicted.endswith(" --disable_tta")
    linked = {path.name for path in (out / "nnunet" / "raw" / "Dataset019_KidneyPhantoms" / "imagesTr").iterdir()}
    assert linked == {f"{case}_0000.nii.gz" for case in split["training"]}
    assert (directory / "curves" / "loss.csv").read_text() == "seconds,loss\n1.0,0.5\n"
    scores = json.loads((directory / "plain.json").read_text())["cases"]
    assert list(scores) == split["evaluation"] and all(score["kidney_dice"] == 1 for score in scores.values())
    with pytest.raises(compare.steps.UsageError, match="was made with minutes 0.5, not with minutes 1"):
        nnunet.train(directory, minutes=1, seed=2)
