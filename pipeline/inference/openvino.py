"""Run a network with OpenVINO on a CPU."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..device import Accelerator
from ..runtime.files import whole_file
from ..runtime.paths import user_cache
from .agreement import MissingBackendError

logger = logging.getLogger("kits_unet3d.inference")

#: OpenVINO's names of our precisions.
PRECISIONS = {"fp32": "f32", "bf16": "bf16"}
#: Bytes of the SHA-256 before a cached network.
DIGEST = 32
#: Number of compiled networks kept on disk; each takes as much space as its weights.
KEPT = 5


class OpenVINO:
    """Run the network compiled by OpenVINO for windows of one shape, or loaded from an earlier run's cache.

    Args:
        network: on the CPU, in evaluation mode.
        accelerator: sets the precision.
        window: (1, C, D, H, W).
        approve: receives a new backend and raises if it must not be used; only approved backends are cached.

    Raises:
        MissingBackendError: without OpenVINO, on another device, or in a precision that OpenVINO does not support.
    """

    def __init__(
        self,
        network: nn.Module,
        accelerator: Accelerator,
        window: Sequence[int],
        approve: Callable[[OpenVINO], None] = lambda backend: None,
    ) -> None:
        try:
            import openvino
        except ModuleNotFoundError as error:
            raise MissingBackendError("openvino is not installed; `pip install 'kits-unet3d[openvino]'`") from error
        if not accelerator.on_cpu or accelerator.precision not in PRECISIONS:
            raise MissingBackendError(
                f"the inference backend openvino computes on a CPU in {' or '.join(PRECISIONS)}, "
                f"not on {accelerator.device} in {accelerator.precision}; use --backend eager"
            )
        # OpenVINO computes in FP32 if the processor lacks bf16. It ignores a limit that is set for oneDNN by
        # ONEDNN_MAX_CPU_ISA, which torch obeys, and would then fail.
        precision = accelerator.precision if accelerator.describe()["bf16"] else "fp32"
        settings = {"INFERENCE_PRECISION_HINT": PRECISIONS[precision], "PERFORMANCE_HINT": "LATENCY"}
        settings["INFERENCE_NUM_THREADS"] = str(torch.get_num_threads())
        core = shared_core()
        directory = cache_directory()
        cached = (
            None
            if directory is None
            else directory / f"{_digest(network, window, settings, openvino.__version__)}.blob"
        )
        compiled = None if cached is None else _cached(core, cached, settings)
        self._request = None if compiled is None else compiled.create_infer_request()
        if compiled is None:
            compiled = core.compile_model(_converted(network, window), "CPU", settings)
            self._request = compiled.create_infer_request()
            approve(self)
            if cached is not None:
                _save_to_cache(compiled, cached)

    def __call__(self, window: torch.Tensor) -> torch.Tensor:
        """Return float32 logits of windows (B, C, D, H, W)."""
        logits = [self._request.infer([one[None].numpy()])[0].copy() for one in window.contiguous()]  # type: ignore[union-attr]
        return torch.from_numpy(np.concatenate(logits))


@cache
def shared_core() -> Any:
    """Return the one ``openvino.Core`` of this process, kept until the process ends.

    Each core gives its thread a stack for signals and restores the previous one when it is destroyed. If two cores are
    destroyed in the order of their creation, the second restores the stack of the first, whose memory is freed. The
    next signal, such as the end of a data worker, then ends the process.
    """
    import openvino

    return openvino.Core()


def cache_directory() -> Path | None:
    """Return the directory of compiled networks in the user's cache; None for a user without a home directory."""
    cache = user_cache()
    return None if cache is None else cache / "openvino"


def _digest(network: nn.Module, window: Sequence[int], settings: dict[str, str], version: str) -> str:
    """Return a digest of everything that a compiled network depends on."""
    digest = hashlib.sha256(repr((str(network), tuple(window), settings, version)).encode())
    for name, values in network.state_dict().items():
        digest.update(name.encode())
        digest.update(values.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


def _converted(network: nn.Module, window: Sequence[int]) -> Any:
    """Convert the network with OpenVINO's own front end, since ``convert_model`` brings telemetry."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # they report operations that this torch names differently
    try:
        with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            exported = torch.export.export(network, (torch.zeros(tuple(window)),))
            decoder = TorchFXPythonDecoder.from_exported_program(exported)  # must outlive the conversion
    finally:
        logging.disable(before)
    frontend = FrontEndManager().load_by_framework("pytorch")
    model = frontend.convert(frontend.load(decoder))
    model.reshape(list(window))
    return model


def _cached(core: Any, path: Path, settings: dict[str, str]) -> Any | None:
    try:
        if not (path.is_file() and _is_own(path.parent) and _is_own(path)):
            return None
        content = path.read_bytes()
        digest, blob = content[:DIGEST], content[DIGEST:]
        if hashlib.sha256(blob).digest() != digest:  # OpenVINO itself takes any bytes as weights
            return None
        compiled = core.import_model(blob, "CPU", settings)
        path.touch()
    except (RuntimeError, OSError):  # damaged, or from another machine
        return None
    return compiled


def _is_own(path: Path) -> bool:
    """Return whether only this user can have written the cached networks, which are used as they are."""
    about = path.stat()
    own = not hasattr(os, "getuid") or (about.st_uid == os.getuid() and not about.st_mode & 0o022)
    if not own:
        _warn_of(path)
    return own


@cache
def _warn_of(path: Path) -> None:
    """Warn that a part of the cache is not used, once per process."""
    logger.warning("%s is not used as a cache, since another user can write it; correct its owner or mode", path)


def _save_to_cache(compiled: Any, path: Path) -> None:
    """Save the compiled network for the next run; if that fails, the next run compiles again."""
    stream = io.BytesIO()
    try:
        compiled.export_model(stream)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_own(path.parent):
            return
        with whole_file(path) as temporary:
            temporary.write_bytes(hashlib.sha256(stream.getbuffer()).digest() + stream.getvalue())
        for old in sorted(path.parent.glob("*.blob"), key=lambda p: p.stat().st_mtime)[:-KEPT]:
            old.unlink(missing_ok=True)
    except (RuntimeError, OSError):
        pass
