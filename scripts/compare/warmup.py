"""How many epochs of warm-up a budget of minutes leaves: `python scripts/compare/warmup.py BENCHMARK PREPARED MINUTES`.

The reference warms up over 200 epochs and with batch 2 needs 2,659 on average (MLPerf's reference points): 7.5 % of the
way. The same share of the epochs that fit into the budget, by the measured median step, at least one.
"""

import json
import sys
from pathlib import Path

SHARE = 200 / 2659
BATCH = 2


def warmup_epochs(step_seconds: float, cases: int, minutes: float) -> int:
    """Of `cases` training cases, two a step, in `minutes`."""
    epochs = 60 * minutes / (step_seconds * (cases // BATCH))
    return max(1, round(SHARE * epochs))


if __name__ == "__main__":
    benchmark, prepared, minutes = sys.argv[1:]
    median_ms = json.loads(Path(benchmark).read_text(encoding="utf-8"))["step_ms"]["p50"]
    cases = json.loads((Path(prepared) / "index.json").read_text(encoding="utf-8"))["cases"]
    training = sum(case["split"] == "training" for case in cases.values())
    print(warmup_epochs(median_ms / 1000, training, float(minutes)))
