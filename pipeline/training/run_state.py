"""All that a run is made of, as plain data and back: what a checkpoint holds so that the run can go on from it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from monai.transforms import Transform
from torch import nn

from kits_unet3d.transforms import Recipe

from ..data.sampling import CaseSampler
from ..device import Accelerator
from ..model import describe_network
from ..runtime import distributed
from .averaging import WeightAverage
from .schedule import Clock
from .step import TrainStep

#: Of an optimiser's group: what changes while it works, and is no setting.
FREE = ("lr", "initial_lr", "params", "step")


class RunState:
    """The parts of a training run.

    Samples depend on seed, epoch and case alone (:mod:`kits_unet3d.pipeline.data.sampling`) and the learning
    rate on the epoch, so neither data workers nor the schedule have a state to keep.

    Args:
        average: of the network's weights, with the network itself.
        optimizer, step, sampler: of the run.
        factory: the network as ``functools.partial``; its class and arguments go into the file.
        recipe: how images are prepared for the network.
        accelerator: described in the file; gives its random state.
        settings: what decides the result beside network, recipe and optimiser: plain values, and components (loss,
            augmentation) as they were made, before their first use.
        clock: of the run, whose time is kept; None for one that nobody asks.

    Attributes:
        best: the best score so far, None before the first evaluation.
        evaluated: the epoch of the last finished evaluation, 0 before the first.
    """

    def __init__(
        self,
        average: WeightAverage,
        optimizer: torch.optim.Optimizer,
        step: TrainStep,
        sampler: CaseSampler,
        factory: partial[nn.Module],
        recipe: Recipe,
        accelerator: Accelerator,
        settings: Mapping[str, Any],
        clock: Clock | None = None,
    ) -> None:
        self.clock = clock or Clock()
        self.average, self.optimizer, self.step, self.sampler = average, optimizer, step, sampler
        self.factory, self.recipe, self.accelerator = factory, recipe, accelerator
        self.settings = _described(settings)
        self.best: float | None = None
        self.evaluated = 0

    def configuration(self, engine: Engine) -> dict[str, Any]:
        """What must agree between a run and the checkpoint it goes on from, by name, as plain data."""
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
            "recipe": self.recipe.as_dict(),
        }

    def differences(self, content: Mapping[str, Any], engine: Engine) -> list[str]:
        """Names (``optimizer::momentum``) of what a checkpoint of another configuration has otherwise."""
        return differing(self.configuration(engine), content.get("configuration", {}))

    def capture(self, engine: Engine) -> dict[str, Any]:
        """Tensors and plain data only, so that ``weights_only=True`` can read it. All processes must call it."""
        return {
            **_on_cpu(self.average.capture()),
            "optimizer": _on_cpu(self.optimizer.state_dict()),
            "scaler": self.step.scaler.state_dict(),
            "network": describe_network(self.factory),
            "recipe": self.recipe.as_dict(),
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
        """Puts the run where :meth:`capture` found it; the next sample is the one that would have come then."""
        self.average.restore(content)
        self.optimizer.load_state_dict(content["optimizer"])
        self.step.scaler.load_state_dict(content["scaler"])
        self.best, self.evaluated = content["best"], content["evaluated"]
        self.clock.before = content.get("seconds", 0.0)
        length = engine.state.epoch_length
        engine.state.iteration = content["iteration"]
        engine.state.epoch = content["iteration"] // length  # ignite counts it up when it enters the epoch
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
        self.accelerator.set_rng_state(states["device"])  # leaves it as it is if the run goes on elsewhere


def _on_cpu(value: Any) -> Any:
    """A tree with its tensors on the CPU: a file that names a device cannot be read where there is none."""
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if isinstance(value, Mapping):
        return {key: _on_cpu(item) for key, item in value.items()}
    return [_on_cpu(item) for item in value] if isinstance(value, list) else value


def _described(part: Any) -> Any:
    """As plain data: of a component its class, its public attributes, and the components that it is made of."""
    if isinstance(part, np.generic):  # numpy's float64 is a float, but not plain: a file with it would name code
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
    """Names (``optimizer::momentum``) of the entries in which two configurations differ."""
    one, other = _flat(ours), _flat(theirs)
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))


def _flat(content: Any, name: str = "") -> dict[str, Any]:
    """Nested entries by their path ``a::b``; a list is one entry unless it holds entries itself."""
    entries: Any = content.items() if isinstance(content, Mapping) else enumerate(content)
    flat: dict[str, Any] = {}
    for key, value in entries:
        path = f"{name}::{key}" if name else str(key)
        nested = isinstance(value, Mapping) or (isinstance(value, list) and any(isinstance(v, Mapping) for v in value))
        flat |= _flat(value, path) if nested else {path: value}
    return flat
