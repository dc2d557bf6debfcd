"""Capture the state of a run as plain data for a checkpoint, and restore it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from mlperf_logging.mllog import constants as keys
from monai.transforms import Transform
from torch import nn

from kits_unet3d.transforms import PreprocessingParameters

from ..data.sampling import CaseSampler
from ..device import Accelerator
from ..model import describe_network
from ..runtime import distributed
from .averaging import WeightAverage
from .schedule import Clock, Schedule
from .step import TrainStep

#: Entries of an optimiser's group that change during training, so they are not settings.
FREE = ("lr", "initial_lr", "params", "step")
#: Settings that a continued run may change.
CONTINUABLE = ("budget_minutes", "weights")


class RunState:
    """Hold the components of a training run, and capture and restore their state.

    Samples depend on seed, epoch and case alone (:mod:`kits_unet3d.pipeline.data.sampling`). The learning rate depends
    on the epoch. So neither the data workers nor the schedule have a state to save.

    Args:
        average: average of the network's weights, with the network itself.
        optimizer, step, sampler: components of the run.
        factory: the network as ``functools.partial``; its class and arguments are saved in the file.
        parameters: preprocessing parameters of the network's images.
        accelerator: its description and its random state are saved in the file.
        settings: further settings that change the result; network, ``parameters`` and optimiser are added here.
            Plain values, and loss and augmentation as they are before their first use.
        clock: clock of the run, whose time is saved; None for a clock without a limit.

    Attributes:
        best: the best score so far; None before the first evaluation.
        evaluated: the iteration of the last finished evaluation; 0 before the first.
    """

    def __init__(
        self,
        average: WeightAverage,
        optimizer: torch.optim.Optimizer,
        step: TrainStep,
        sampler: CaseSampler,
        factory: partial[nn.Module],
        parameters: PreprocessingParameters,
        accelerator: Accelerator,
        settings: Mapping[str, Any],
        clock: Clock | None = None,
    ) -> None:
        self.clock = clock or Clock()
        self.average, self.optimizer, self.step, self.sampler = average, optimizer, step, sampler
        self.factory, self.parameters, self.accelerator = factory, parameters, accelerator
        self.settings = _described(settings)
        self.best: float | None = None
        self.evaluated = 0

    def configuration(self, engine: Engine) -> dict[str, Any]:
        """Return the settings that must be the same when a run resumes, by name, as plain data."""
        groups = self.optimizer.param_groups
        names = {name for group in groups for name in group if name not in FREE}
        return {
            **self.settings,
            "epoch_length": engine.state.epoch_length,
            "world_size": distributed.world_size(),
            "precision": self.accelerator.precision,
            "optimizer": {
                "name": type(self.optimizer).__name__,
                **{name: _described([group.get(name) for group in groups]) for name in sorted(names)},
            },
            "network": _described(describe_network(self.factory)),
            "preprocessing_parameters": self.parameters.as_dict(),
        }

    def differences(self, content: Mapping[str, Any], engine: Engine) -> list[str]:
        """Return the names (``optimizer::momentum``) of the settings that differ in a checkpoint."""
        names = differing(self.configuration(engine), content.get("configuration", {}))
        return [name for name in names if name not in CONTINUABLE]

    def capture(self, engine: Engine) -> dict[str, Any]:
        """Return tensors and plain data only, which ``weights_only=True`` can read. All processes must call it."""
        return {
            **_on_cpu(self.average.capture()),
            "optimizer": _on_cpu(self.optimizer.state_dict()),
            "scaler": self.step.scaler.state_dict(),
            "network": describe_network(self.factory),
            "preprocessing_parameters": self.parameters.as_dict(),
            "configuration": self.configuration(engine),
            "device": self.accelerator.describe(),
            "seed": self.sampler.seeds.master,
            "random": distributed.gather(self._random_states()),
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "best": self.best,
            "evaluated": self.evaluated,
            "seconds": self.clock.seconds,
        }

    def restore(self, content: Mapping[str, Any], engine: Engine) -> None:
        """Restore the state from :meth:`capture`; the sampler continues with the next sample."""
        self.average.restore(content)
        if weights := content["configuration"].get("weights"):
            self.settings = {**self.settings, "weights": weights}
        self.optimizer.load_state_dict(content["optimizer"])
        self.step.scaler.load_state_dict(content["scaler"])
        self.best, self.evaluated = content["best"], content["evaluated"]
        self.clock.before = content.get("seconds", 0.0)
        length = engine.state.epoch_length
        engine.state.iteration = content["iteration"]
        engine.state.epoch = content["iteration"] // length  # ignite increments it when it enters the epoch
        self.sampler.seeds.master = content["seed"]
        self.sampler.skip = content["iteration"] % length * self.settings["batch_size"]
        self._set_random_states(content["random"][distributed.rank()])

    def _random_states(self) -> dict[str, Any]:
        state: Any = np.random.get_state(legacy=True)  # noqa: NPY002
        _, keys, position, has_gauss, gauss = state
        return {
            "python": random.getstate(),
            "numpy": [torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(gauss)],
            "torch": torch.get_rng_state(),
            "device": self.accelerator.rng_state(),
        }

    def _set_random_states(self, states: Mapping[str, Any]) -> None:
        version, internal, gauss_next = states["python"]
        random.setstate((version, tuple(internal), gauss_next))
        keys, position, has_gauss, gauss = states["numpy"]
        np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, gauss))  # noqa: NPY002
        torch.set_rng_state(states["torch"])
        self.accelerator.set_rng_state(states["device"])  # does nothing if the run resumes on another kind of device


def _on_cpu(value: Any) -> Any:
    """Move all tensors of a tree to the CPU, so that a machine without the device can read the file."""
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if isinstance(value, Mapping):
        return {key: _on_cpu(item) for key, item in value.items()}
    return [_on_cpu(item) for item in value] if isinstance(value, list) else value


def _described(part: Any) -> Any:
    """Describe a component as plain data: its class, its public attributes and its inner components."""
    if isinstance(part, np.generic):  # pickled, it would refer to numpy's code, which weights_only refuses
        return part.item()
    if part is None or isinstance(part, bool | int | float) or type(part) is str:
        return part
    if isinstance(part, Mapping):
        return {str(name): _described(value) for name, value in part.items()}
    if isinstance(part, list | tuple):
        return [_described(value) for value in part]
    if isinstance(part, np.ndarray | torch.Tensor):
        return part.tolist()
    if not isinstance(part, nn.Module | Transform):
        return str(part) if isinstance(part, str | torch.dtype) else type(part).__name__
    inside = {name: value for name, value in vars(part).items() if not name.startswith("_")}
    if isinstance(part, nn.Module):
        inside |= {**dict(part.named_children()), **dict(part.named_buffers(recurse=False))}
    return {"_target_": type(part).__name__, **_described(inside)}


def differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Return the names (``optimizer::momentum``) of the entries that differ between two configurations."""
    one, other = _flat(ours), _flat(theirs)
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))


def _flat(content: Any, name: str = "") -> dict[str, Any]:
    """Flatten nested entries to paths ``a::b``; a list is one entry unless it contains mappings."""
    entries: Any = content.items() if isinstance(content, Mapping) else enumerate(content)
    flat: dict[str, Any] = {}
    for key, value in entries:
        path = f"{name}::{key}" if name else str(key)
        nested = isinstance(value, Mapping) or (isinstance(value, list) and any(isinstance(v, Mapping) for v in value))
        flat |= _flat(value, path) if nested else {path: value}
    return flat


def run_settings(schedule: Schedule, clock: Clock | None = None, **others: Any) -> dict[str, Any]:
    """Return the settings that must be the same when a run resumes, by the names that checkpoints hold.

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
