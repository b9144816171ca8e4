"""A GPU that is not there, by PyTorch's fake tensors: what lies on it has shape, type and device alone, and an
operation on tensors of two devices raises. Tensors on the CPU are real; what is read back from the GPU is ones.

It goes by the name "meta": autograd and indexing ask for CUDA's device guard in C++, which builds for CPUs have not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map_only

aten = torch.ops.aten
_ASKS_A_VALUE = (aten._local_scalar_dense.default, aten.item.default, aten.is_nonzero.default)
_LENGTHS: dict[Any, Callable[..., tuple[int, ...]]] = {  # results whose length depends on values
    aten.bincount.default: lambda x, weights=None, minlength=0: (minlength,),
    aten.nonzero.default: lambda x: (1, x.ndim),
}
GPU = torch.device("meta")


@contextlib.contextmanager
def fake_gpu() -> Iterator[None]:
    """Within, `GPU` is a device like others. What is half precision on a GPU is CUDA's."""
    autocast = torch.autocast

    def as_cuda(device_type: str, *arguments: Any, **options: Any) -> Any:
        return autocast("cuda" if device_type == GPU.type else device_type, *arguments, **options)

    with mock.patch.object(torch, "autocast", as_cuda), _Mode():
        yield


class _Mode(FakeTensorMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        arguments = (args, kwargs or {})
        if not any(_is_there(leaf) for leaf in tree_leaves(arguments)):
            return func(*arguments[0], **arguments[1])
        if func in _ASKS_A_VALUE:
            return torch.ones((), dtype=args[0].dtype).item()
        args, kwargs = tree_map_only(Tensor, self._faked, arguments)
        if func is aten._to_copy.default and kwargs.get("device", GPU) != GPU:
            return torch.ones(tuple(args[0].shape), dtype=kwargs.get("dtype") or args[0].dtype)
        if func in _LENGTHS:
            shape = _LENGTHS[func](args[0], *args[1:], **kwargs)
            return FakeTensor(self, torch.empty(shape, dtype=torch.int64, device="meta"), GPU)
        return tree_map_only(FakeTensor, _back, super().__torch_dispatch__(func, types, args, kwargs))

    def _faked(self, value: Tensor) -> FakeTensor:
        if isinstance(value, FakeTensor):
            return value
        like = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
        return FakeTensor(self, like, value.device)


def _is_there(value: Any) -> bool:
    if isinstance(value, Tensor):
        return isinstance(value, FakeTensor) or value.device == GPU
    return isinstance(value, torch.device) and value == GPU


def _back(value: FakeTensor) -> Tensor:
    """A result on the CPU is a real tensor."""
    return value if value.fake_device == GPU else torch.ones(tuple(value.shape), dtype=value.dtype)
