"""Mixed precision: which operations compute in the low precision, and which always in float32."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

from .memory import is_on_device
from .mlu import NAME

#: Operations that had their tensors cast to the low precision.
CASTS: Counter[str] = Counter()
_LOW = (
    "prelu", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d.input", "conv_transpose3d.input",
    "linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "einsum",
)  # fmt: skip
_FULL = (
    "mse_loss", "binary_cross_entropy_with_logits", "nll_loss", "log_softmax.int", "softmax.int", "sum",
    "sum.dim_IntList", "pow.Tensor_Scalar", "exp", "log", "norm.Scalar", "cosine_similarity",
)  # fmt: skip
_libraries: list[torch.library.Library] = []


def _kernel(operation: Any, low: bool) -> Callable[..., Any]:
    key = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def run(*args: Any, **kwargs: Any) -> Any:
        dtype = torch.get_autocast_dtype(NAME) if low else torch.float32
        if low:
            CASTS[str(operation)] += 1

        def cast(value: Any) -> Any:
            if is_on_device(value) and value.is_floating_point() and value.dtype != torch.float64:
                return value.to(dtype)
            return type(value)(cast(item) for item in value) if isinstance(value, list | tuple) else value

        with torch._C._ExcludeDispatchKeyGuard(key):
            return operation(*[cast(value) for value in args], **{name: cast(v) for name, v in kwargs.items()})

    return run


def register() -> None:
    others = torch.library.Library("_", "IMPL")
    others.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    listed = torch.library.Library("aten", "IMPL", "AutocastPrivateUse1")
    for names, low in ((_LOW, True), (_FULL, False)):
        for name in names:
            base, _, overload = name.partition(".")
            listed.impl(name, _kernel(getattr(getattr(torch.ops.aten, base), overload or "default"), low))
    _libraries.extend([others, listed])
