"""One memory, two labels: a tensor's DLPack capsule says which device it is on, and can be told otherwise."""

from __future__ import annotations

import ctypes

import torch

from .mlu import NAME

_CPU, _EXTENSION = 1, 12  # DLDeviceType; torch reads the second as the vendors' device
_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype = ctypes.c_void_p
_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


class _Head(ctypes.Structure):
    """The first fields of a DLTensor."""

    _fields_ = [("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32)]


def _relabelled(tensor: torch.Tensor, device_type: int) -> torch.Tensor:
    capsule = torch._C._to_dlpack(tensor)
    head = _Head.from_address(_pointer(capsule, b"dltensor"))
    head.device_type, head.device_id = device_type, 0
    return torch._C._from_dlpack(capsule)


def is_on_device(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.device.type == NAME


def cpu_alias(tensor: torch.Tensor) -> torch.Tensor:
    """The same memory as a tensor on the CPU."""
    return _relabelled(tensor, _CPU)


def device_alias(tensor: torch.Tensor) -> torch.Tensor:
    """The same memory as a tensor on the simulated device, always on its first card.

    torch's autograd knows only one card of a device that is written in Python, so what is sent to ``mlu:1`` says
    ``mlu:0``. A process uses one card, whichever it is.
    """
    return _relabelled(tensor.detach() if tensor.requires_grad else tensor, _EXTENSION)
