"""Derive the settings that checkpoints and the MLPerf log hold from a run's components."""

from __future__ import annotations

from typing import Any

from mlperf_logging.mllog import constants as keys

from kits_unet3d.transforms import PreprocessingParameters

from .schedule import Clock, Schedule


def run_settings(schedule: Schedule, clock: Clock | None = None, **others: Any) -> dict[str, Any]:
    """Return the settings in which a run and its checkpoint must agree, by the names that checkpoints hold.

    Args:
        schedule: schedule of the learning rate.
        clock: clock of the time budget if the learning rate falls by time, else None.
        others: further settings, unchanged.
    """
    until = "end of max_minutes" if clock else f"epoch {schedule.epochs}"
    return {
        **others,
        "learning_rate": schedule.learning_rate,
        "warmup_epochs": schedule.warmup_epochs,
        "decay_epochs": schedule.decay_epochs,
        "decay_factor": schedule.decay_factor,
        "poly_power": schedule.poly_power,
        "learning_rate_until": schedule.poly_power and until,
        "budget_minutes": clock.minutes if clock else None,
    }


def mlperf_settings(
    schedule: Schedule, parameters: PreprocessingParameters, foreground_probability: float, **submission: Any
) -> dict[str, Any]:
    """Return the events of the MLPerf log's initialisation by MLPerf's keys.

    Args:
        schedule: schedule of the learning rate.
        parameters: preprocessing parameters, with the sliding windows of the evaluation.
        foreground_probability: share of patches around foreground.
        submission: submitter and platform, by MLPerf's keys.
    """
    return {
        **submission,
        keys.OPT_BASE_LR: schedule.learning_rate,
        keys.OPT_LR_WARMUP_EPOCHS: schedule.warmup_epochs,
        keys.OPT_LR_DECAY_BOUNDARY_EPOCHS: schedule.decay_epochs,
        keys.OPT_LR_DECAY_FACTOR: schedule.decay_factor,
        "oversampling": foreground_probability,
        "training_input_shape": list(parameters.roi_size),
        "validation_input_shape": list(parameters.roi_size),
        "validation_overlap": parameters.overlap,
    }
