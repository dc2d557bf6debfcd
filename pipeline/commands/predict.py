"""Run the command ``kits-unet3d predict``."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime.files import part_directory, require_writable
from . import Outcome, add_reading_options, reading_options, require_checkpoints

if TYPE_CHECKING:
    from ..inference import Predictor, Results
    from ..io import Found, ReadOptions

HELP = "segment kidneys and tumours in CT scans"
EXAMPLE = "kits-unet3d predict path/to/scan.nii.gz -o path/to/masks --checkpoint path/to/model.pt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "scan",
        nargs="+",
        help="NIfTI, NRRD or MetaImage files, DICOM directories, directories of these, globs, .txt or .csv lists",
    )
    parser.add_argument(
        "-o",
        "--output-dir",
        required=True,
        help="directory for the masks and the report, or for a single scan the file of its mask",
    )
    model = "trained model; repeat it to average several; default: bundle/models/model.pt, else downloaded weights"
    parser.add_argument("--checkpoint", action="append", help=model)
    parser.add_argument(
        "--tta", action="store_true", help="test-time augmentation (TTA) by flipping; takes 8 times as long"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, or the name of an accelerator")
    precisions = ("auto", "fp32", "tf32", "bf16", "fp16")
    parser.add_argument("--precision", choices=precisions, default="fp32", help="precision of the network")
    backends = ("auto", "openvino", "compiled", "channels_last", "eager")
    parser.add_argument("--backend", choices=backends, default="auto", help="inference backend")
    fewer = ("reference", "body", "skip-air", "even")
    parser.add_argument(
        "--windows",
        nargs="+",
        choices=fewer,
        default=["body", "skip-air"],
        help="sliding windows. body: only around the patient; skip-air: skip windows of air; even: fewer, evenly "
        "spaced; reference: as the MLPerf reference, and none of the others",
    )
    parser.add_argument("--roi", choices=("full", "coarse"), default="full", help="coarse: find the kidneys first")
    parser.add_argument(
        "--format",
        choices=("scan", "seg-nrrd"),
        default="scan",
        help="format of the masks. scan: the scan's own; seg-nrrd: a segmentation for 3D Slicer",
    )
    parser.add_argument("--split-kidneys", action="store_true", help="make two classes of right and left kidney")
    parser.add_argument("--probabilities", action="store_true", help="write class probabilities too")
    parser.add_argument("--dicom-seg", action="store_true", help="write DICOM segmentations of DICOM scans too")
    parser.add_argument(
        "--html-report",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="write pictures and the HTML report report.html; default: if the extra figures is installed",
    )
    parser.add_argument("--overwrite", action="store_true", help="predict finished scans again")
    parser.add_argument("--keep-names", action="store_true", help="keep patients' names in file names and reports")
    parser.add_argument(
        "--max-memory", default=None, help="refuse scans that need more, such as 8GB; default: the free memory"
    )
    masks = parser.add_argument_group("what to remove from the masks; default: nothing")
    masks.add_argument(
        "--keep-kidneys",
        action="store_true",
        help="remove all but the largest connected component on each side of the body",
    )
    masks.add_argument("--tumour-touches-kidney", action="store_true", help="remove tumours that touch no kidney")
    masks.add_argument(
        "--min-tumour-mm3",
        type=float,
        default=0.0,
        metavar="MM3",
        help="turn connected components of tumour below this volume into kidney (or else cyst) if they touch it, or "
        "remove them",
    )
    masks.add_argument(
        "--postprocessing", default=None, metavar="JSON", help="use the file that `folds` wrote, instead of these"
    )
    add_reading_options(parser, dicom=True)


def run(arguments: argparse.Namespace) -> Outcome:
    from ..io import find_scans
    from ..io.scan_files import ending_of
    from ..runtime.errors import UsageError
    from ..runtime.memory import memory_limit

    options = reading_options(arguments)
    removed = arguments.keep_kidneys or arguments.tumour_touches_kidney or arguments.min_tumour_mm3
    if arguments.postprocessing is not None and removed:
        raise UsageError(
            f"{arguments.postprocessing} sets the post-processing; leave out the other post-processing options"
        )
    # Checked before torch is imported, which takes seconds: a wrong path is reported at once.
    skipped: dict[str, str] = {}
    scans = find_scans(arguments.scan, options, skipped)
    limit = memory_limit(arguments.max_memory)
    target = Path(arguments.output_dir)
    one_file = bool(ending_of(target)) and not target.is_dir()
    if one_file:
        require_one_mask(arguments, scans, target)
    require_writable(target.parent if one_file else target)
    require_checkpoints(arguments.checkpoint or ())
    # SIGTERM ends the command like an interrupt: no half-written file, exit code 130.
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _predict(arguments, scans, skipped, options=options, limit=limit, target=target if one_file else None)
    finally:
        signal.signal(signal.SIGTERM, before)


def _predict(
    arguments: argparse.Namespace,
    scans: Sequence[Found],
    skipped: dict[str, str],
    *,
    options: ReadOptions,
    limit: float,
    target: Path | None,
) -> Outcome:
    """Load the model and predict; ``target`` is the file of a single mask."""
    from ..device import resolve
    from ..inference import PostProcessing, Predictor, Results
    from ..inference.batch import PATIENCE, Batch
    from ..model import read_model
    from ..runtime.distributed import join, rank
    from ..weights import default_checkpoint

    chosen = (arguments.keep_kidneys, arguments.tumour_touches_kidney, arguments.min_tumour_mm3)
    postprocessing = PostProcessing(*chosen) if any(chosen) else None
    if arguments.postprocessing is not None:
        postprocessing = PostProcessing.read(arguments.postprocessing)
    results = Results(
        arguments.format, arguments.split_kidneys, arguments.probabilities, arguments.dicom_seg, arguments.html_report
    )
    results.require_packages()
    accelerator = resolve(arguments.device, arguments.precision)
    join(accelerator, PATIENCE)
    predictor = Predictor(
        read_model(arguments.checkpoint or default_checkpoint(), tta=arguments.tta, warn=False),
        accelerator,
        progress=sys.stderr.isatty(),
        backend=arguments.backend,
        postprocessing=postprocessing,
        windows=arguments.windows,
        roi=arguments.roi,
        tta=arguments.tta,
    )
    if target is not None and rank() > 0:
        return Outcome(None)
    if target is not None:
        return write_one_mask(
            predictor, scans[0], options, limit=limit, keep_names=arguments.keep_names, target=target, results=results
        )
    batch = Batch(
        predictor,
        arguments.output_dir,
        options,
        limit,
        results,
        arguments.overwrite,
        arguments.keep_names,
    )
    failed = batch.run(scans, skipped)
    summary = {**batch.report.as_dict(), "failed": failed} if rank() == 0 else None
    return Outcome(summary, 1 if failed else 0)


def require_one_mask(arguments: argparse.Namespace, scans: Sequence[Found], target: Path) -> None:
    """Check that the file ``target`` can hold all that is asked for, before a model is loaded.

    Raises:
        UsageError: for several scans, other results than a mask, or a format other than the scan's.
    """
    from ..io.scan_files import MASK_ENDINGS, ending_of
    from ..runtime.errors import UsageError

    if len(scans) > 1:
        raise UsageError(f"{target}: is one file, but there are {len(scans)} scans; name a directory")
    for name in ("probabilities", "dicom_seg", "html_report"):
        if getattr(arguments, name):
            raise UsageError(f"{target}: one file cannot hold what --{name.replace('_', '-')} adds; name a directory")
    ending = "" if scans[0].dicom is not None else ending_of(scans[0].path)
    ending = ".seg.nrrd" if arguments.format == "seg-nrrd" else MASK_ENDINGS.get(ending, ending)
    if not target.name.lower().endswith(ending):
        raise UsageError(
            f"{target}: a mask has the format of its scan, or of --format; give it a name that ends in {ending}"
        )
    if target.exists() and not arguments.overwrite:
        raise UsageError(f"{target}: exists already; choose another name, or replace it with --overwrite")
    inputs = [scans[0].path, *map(Path, arguments.checkpoint or ())]
    if target.exists() and any(path.exists() and target.samefile(path) for path in inputs):
        raise UsageError(f"{target}: is a file that is read; choose another name")


def write_one_mask(
    predictor: Predictor,
    found: Found,
    options: ReadOptions,
    *,
    limit: float,
    keep_names: bool,
    target: Path,
    results: Results,
) -> Outcome:
    """Predict one scan and write its mask as the file ``target``, without a report."""
    from ..inference.prefetch import ScansAhead
    from ..inference.results import without_names
    from ..masks.plausibility import needs_review
    from ..runtime.errors import CaseError
    from ..runtime.output import device_line, show

    predictor.model.announce()
    show(device_line(predictor.accelerator.describe()))
    try:
        with closing(iter(ScansAhead([found], options, predictor.model.parameters, limit))) as ahead:
            _, scan = next(ahead)
        if isinstance(scan, Exception):
            raise scan
        prediction = predictor.predict(scan)
        shown = prediction.with_split_kidneys() if results.split_kidneys else prediction
        with part_directory(target) as directory:
            shown.save(directory, results.mask_format).replace(target)
    except (CaseError, OSError) as error:
        raise CaseError(str(error) if keep_names else without_names(str(error), found.identity)) from error
    volumes = ", ".join(f"{name} {ml:.1f} mL" for name, ml in prediction.volumes_ml.items())
    warnings = [note if keep_names else without_names(note, found.identity) for note in scan.warnings]
    notes = "".join(f" ({note})" for note in (*prediction.measures["flags"], *warnings))
    review = "review: " if needs_review(prediction.measures["checks"]) else ""
    show(f"{review}{target}: {volumes}{notes}")
    warnings += [predictor.model.warning] if predictor.model.warning else []
    return Outcome({"file": str(target), **prediction.measures, "warnings": warnings})


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt
