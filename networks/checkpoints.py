"""Load weights from files into a network without running code from the file.

Every file is read with ``weights_only=True``, without a fallback. Known layouts are ours (``model``), MLPerf's
(``best_model_state_dict``), Cambricon's (``state_dict``) and a bare state dict. Files come from ``torch.save`` or
are safetensors. The ``module.`` prefix of distributed training is removed.

torch does not verify the CRC-32 of each entry in its files; this module does. safetensors has no checksums.
"""

from __future__ import annotations

import codecs
import hashlib
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn

STATE_KEYS = ("model", "best_model_state_dict", "state_dict")
#: Types of weights that every device converts to its own.
WEIGHT_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
#: First version of torch in which ``weights_only=True`` protects its memory from crafted files (CVE-2026-24747).
SAFE_TORCH = (2, 10)
#: Environment variable; the user of an older torch sets it to 1 to vouch for all checkpoints.
VOUCHED = "KITS_UNET3D_OWN_CHECKPOINTS"


class CheckpointError(ValueError):
    """Report that a checkpoint cannot be used; the message names the file, the reason and a remedy."""

    #: Exit code of a program that ends with this error.
    exit_code = 3


def read_checkpoint(path: str | Path, own: bool = False) -> dict[str, Any]:
    """Return the content of a checkpoint file, on the CPU.

    Args:
        path: file of ``torch.save``, or ``.safetensors``.
        own: the file was written by this run, so that an old torch may read it too.

    Raises:
        CheckpointError: if the file is missing, damaged, not a dictionary, or would run code.
    """
    return read_with_digest(path, own)[0]


def read_with_digest(path: str | Path, own: bool = False) -> tuple[dict[str, Any], str]:
    """Call :func:`read_checkpoint`, and return the SHA-256 of the bytes that were read as well.

    The file is opened once, so that the digest belongs to the content even if another file takes its name meanwhile.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint; train one first, or name another with --checkpoint")
    try:
        with open(path, "rb") as stream:
            before = os.fstat(stream.fileno())
            digest = _sha256(stream)
            if path.suffix == ".safetensors":
                content = _read_safetensors(path, stream)
            else:
                _require_safe_torch(path, own)
                _require_intact(path, stream)
                content = _read_torch(path, stream)
            after = os.fstat(stream.fileno())
            if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                raise CheckpointError(f"{path}: changed while it was read; start again once it is written")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error}); copy it again") from error
    return content, digest


def _sha256(stream: BinaryIO) -> str:
    digest = hashlib.sha256()
    stream.seek(0)
    while block := stream.read(1 << 20):
        digest.update(block)
    stream.seek(0)
    return digest.hexdigest()


def _require_safe_torch(path: Path, own: bool) -> None:
    present = tuple(int(number) for number in re.findall(r"\d+", torch.__version__)[:2])
    if present < SAFE_TORCH and not own and os.environ.get(VOUCHED) != "1":
        raise CheckpointError(
            f"{path}: refused, since a crafted checkpoint can corrupt the memory of torch {torch.__version__} "
            f"(CVE-2026-24747, fixed in {SAFE_TORCH[0]}.{SAFE_TORCH[1]}); use a newer torch or a .safetensors file, or "
            f"set {VOUCHED}=1 if all your checkpoints are your own"
        )


def _require_intact(path: Path, stream: BinaryIO) -> None:
    """Verify the CRC-32 of every entry of a zip written by ``torch.save``; older formats lack it."""
    start = stream.read(4)
    stream.seek(0)
    if not start.startswith(b"PK"):
        return
    try:
        with zipfile.ZipFile(stream) as packed:
            names = packed.namelist()
            if any(name.split("/", 1)[-1] in ("manifest.json", "configs/metadata.json") for name in names):
                raise CheckpointError(
                    f"{path}: is the zip of a bundle; unpack it with `kits-unet3d unpack {path}`, and name the "
                    "models/model.pt in it"
                )
            if any("/code/" in name for name in names):
                raise CheckpointError(
                    f"{path}: is TorchScript, which contains code; name the checkpoint it was made of, or use it with "
                    "torch.jit.load"
                )
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in packed.infolist()):
                raise CheckpointError(f"{path}: is a compressed zip, not written by torch.save; name a checkpoint")
            damaged = packed.testzip()
    except CheckpointError:
        raise
    except Exception as error:  # zipfile raises many error types for damaged files
        raise CheckpointError(f"{path}: damaged or not a checkpoint ({error}); copy it again") from error
    stream.seek(0)
    if damaged is not None:
        raise CheckpointError(
            f"{path}: damaged, since its entry {damaged} does not match its CRC-32; copy it again, or use another"
        )


def _numpy_scalars() -> list[Any]:
    """Return the parts of a numpy number; MLPerf's training saves scores as such beside the weights."""
    types = (torch.float16, torch.float32, torch.float64, torch.int32, torch.int64, torch.bool)
    arrays = [torch.zeros(1, dtype=dtype).numpy() for dtype in types]
    scalar = arrays[0][0].__reduce__()[0]
    # numpy 1 and 2 name the same function differently, and a file may come from either.
    named = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    kinds = [type(array.dtype) for array in arrays]
    # codecs.encode makes bytes from text in such files. torch allows it since 2.5, and numpy.dtype is not imported.
    return [*named, codecs.encode, kinds[0].__mro__[-2], *kinds]


@contextmanager
def _allowed(parts: list[Any]) -> Iterator[None]:
    """Allow ``parts`` in a file, each an object or (object, its name in the file), beside tensors and plain data."""
    known = torch.serialization
    if hasattr(known, "safe_globals"):
        with known.safe_globals(parts):
            yield
        return
    # torch 2.4 takes no names: it reads them off the objects.
    before = list(known.get_safe_globals())
    known.add_safe_globals([_renamed(*part) if isinstance(part, tuple) else part for part in parts])
    try:
        yield
    finally:
        known.clear_safe_globals()
        known.add_safe_globals(before)


def _renamed(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    def alias(*arguments: Any) -> Any:
        return function(*arguments)

    alias.__module__, _, alias.__name__ = name.rpartition(".")
    return alias


def _read_torch(path: Path, stream: BinaryIO) -> dict[str, Any]:
    try:
        with _allowed(_numpy_scalars()):
            content = torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:
        if "unsupported global" in str(error).lower():
            named = re.search(r"GLOBAL ([\w.]+)", str(error))
            raise CheckpointError(
                f"{path}: refused, since it contains {named[1] if named else 'something'}, which is neither a tensor "
                "nor plain data, and reading that can run code from the file; "
                "save only its tensors (a state dict) and load that"
            ) from error
        if isinstance(error, pickle.UnpicklingError):  # its message advises to disable the protection
            raise CheckpointError(
                f"{path}: damaged, not a checkpoint, or not written by torch.save; "
                "copy it again, or save only its tensors (a state dict) with torch.save"
            ) from error
        # torch raises many error types for damaged files; only the first line helps a user.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path}: damaged or not a checkpoint ({reason}); copy it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: contains a {type(content).__name__}, not a dictionary of weights")
    return content


def _read_safetensors(path: Path, stream: BinaryIO) -> dict[str, Any]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load
    except ImportError as error:
        raise CheckpointError(
            f"{path}: the package safetensors is needed to read it; `pip install kits-unet3d[safetensors]`"
        ) from error
    try:
        return dict(load(stream.read()))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged or not a safetensors file ({error}); copy it again") from error


def network_state(content: dict[str, Any], source: str | Path = "checkpoint") -> dict[str, torch.Tensor]:
    """Return the network's state dict from a checkpoint's content in any known layout."""
    state = next((content[key] for key in STATE_KEYS if isinstance(content.get(key), dict)), content)
    found = len(state)
    state = {str(name).removeprefix("module."): value for name, value in state.items()}
    if len(state) < found:
        raise CheckpointError(f"{source}: contains weights twice, with and without the prefix module.; save them once")
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise CheckpointError(
            f"{source}: no weights found; looked for {', '.join(STATE_KEYS)} or a bare state dict, "
            f"found {sorted(map(str, content))[:5]}"
        )
    return state


def load_weights(network: nn.Module, state: dict[str, torch.Tensor], source: str | Path = "checkpoint") -> None:
    """Copy ``state`` into ``network``; names and shapes must agree, values must be finite.

    Raises:
        CheckpointError: if tensors differ, are not finite, or are weights that are all 0. It names the first ones, and
            nothing is copied.
    """
    wanted = network.state_dict()
    differences = [f"{name}: missing from the file" for name in wanted if name not in state]
    differences += [f"{name}: not in the network" for name in state if name not in wanted]
    differences += [
        f"{name}: {tuple(state[name].shape)} in the file, {tuple(wanted[name].shape)} in the network"
        for name in wanted
        if name in state and state[name].shape != wanted[name].shape
    ]
    differences += [
        f"{name}: {_type_of(state[name])} in the file, {wanted[name].dtype} in the network"
        for name in wanted
        if name in state and wanted[name].is_floating_point() and _type_of(state[name]) not in WEIGHT_TYPES
    ]
    if differences:
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise CheckpointError(f"{source}: the weights belong to another network. {'; '.join(differences[:3])}{more}")
    if spoilt := next((name for name, value in state.items() if not torch.isfinite(value).all()), None):
        raise CheckpointError(
            f"{source}: the weights in {spoilt} are not finite (NaN or infinity), so the training had diverged or the "
            "file is damaged; use an earlier checkpoint"
        )
    if blank := next((name for name, value in state.items() if value.ndim > 1 and not value.any()), None):
        raise CheckpointError(f"{source}: all weights in {blank} are 0, so the file is damaged; use another checkpoint")
    network.load_state_dict(state)


def _type_of(value: torch.Tensor) -> torch.dtype | str:
    """Return the type of a tensor's values, or the reason why it lacks values."""
    if value.layout != torch.strided or value.is_meta or value.is_quantized:
        return "no values" if value.is_meta else "quantised or sparse values"
    return value.dtype
