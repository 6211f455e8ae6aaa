"""CUDA without a GPU: tensors that have a device, a shape and a dtype, but no numbers.

Code that runs on them mixes no devices and reads no number of the device - both raise - and its
launches and copies can be counted. It says nothing of time. The host's own tensors are real.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from flexvar import Pipeline
from flexvar.errors import FlexvarError
from flexvar.ops import fusion

# c10/core/DeviceType.h, and its table of what switches to a device.
CUDA, META, DEVICE_TYPES = 1, 14, 22
GUARDS = "_ZN3c104impl26device_guard_impl_registryE"
# Operators that make or relabel memory and run nothing on the device.
FREE = frozenset({
    "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "alias",
    "lift_fresh", "_unsafe_view", "_reshape_alias", "set_", "resize_", "reshape", "flatten",
    "contiguous", "to",
})  # fmt: skip


def hollow(config: Mapping[str, Any], dtype: str = "bf16") -> Pipeline:
    """A pipeline without weights, on the meta device, for `fake_cuda`."""
    with torch.device("meta"):
        return Pipeline.from_config(config, dtype=dtype)


@contextmanager
def fake_cuda(pipe: Pipeline) -> Iterator[None]:
    """Inside, tensors on ``cuda:0`` are fake; the weights of a pipeline become so and stay it.

    Backward passes are no part of it: torch's engine asks for a real device.
    Raises `FlexvarError` where torch's device guards cannot be reached (Linux only).
    """
    autocast = mock.patch("torch.cuda.amp.common.amp_definitely_not_available", return_value=False)
    bf16 = mock.patch("torch.cuda.is_bf16_supported", return_value=True)
    pin = mock.patch.object(torch.Tensor, "pin_memory", lambda tensor: tensor)
    with _guard(), autocast, bf16, pin, _FakeDevice():
        for module in pipe.parts.modules():
            module._apply(_bare)
        pipe.device = torch.device("cuda:0")
        yield


class _FakeDevice(FakeTensorMode):
    """Fakes what is on the device alone, so that the host reads its own tensors as ever."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = tree_leaves((args, kwargs))
        if not any(isinstance(one, FakeTensor) or _is_cuda(one) for one in given):
            return func(*args, **(kwargs or {}))
        args, kwargs = tree_map(self._hollow, (args, kwargs or {}))
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _hollow(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or isinstance(value, FakeTensor):
            return value
        shape = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
        return FakeTensor(self, shape, value.device)


def _is_cuda(value: Any) -> bool:
    return isinstance(value, torch.device) and value.type == "cuda"


def _bare(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda:0")


@contextmanager
def _guard() -> Iterator[None]:
    """What switches to a CUDA device, where torch has nothing: what does nothing, as for meta."""
    if torch.backends.cuda.is_built():
        yield
        return
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
        guards = (ctypes.c_void_p * DEVICE_TYPES).in_dll(library, GUARDS)
    except (OSError, ValueError) as error:
        raise FlexvarError(
            f"CUDA cannot be simulated with this build of torch ({error}); it takes Linux."
        ) from None
    before = guards[CUDA]
    guards[CUDA] = guards[META]
    try:
        yield
    finally:
        guards[CUDA] = before


class Launches(TorchDispatchMode):
    """Counts what runs on CUDA and what is copied to and from it, inside a ``with`` block.

    An operator of torch is one launch, though some are several kernels (a sort, a scan, a
    convolution); one of ours is as many as it is kernels. Views and bare memory are none. copies:
    ``to_device``, ``to_host``.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ran: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """All launches."""
        return sum(self.ran.values())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        read, made = _devices((args, kwargs)), _devices(result)
        name = func.overloadpacket.__name__
        if "cuda" in made and "cpu" in read:
            self.copies["to_device"] += 1
        elif "cpu" in made and "cuda" in read:
            self.copies["to_host"] += 1
        elif "cuda" in made and name not in FREE and not _is_view(func):
            of = fusion.LAUNCHES.get(name, 1) if func.namespace == "flexvar" else 1
            self.ran[name] += of if isinstance(of, int) else of(*args)
        return result


def _is_view(func: Any) -> bool:
    return any(
        one.alias_info is not None and not one.alias_info.is_write for one in func._schema.returns
    )


def _devices(value: Any) -> set[str]:
    """Where the tensors in a value are; numbers of the host go along with a launch."""
    tensors = [one for one in tree_leaves(value) if isinstance(one, torch.Tensor)]
    return {one.device.type for one in tensors if one.ndim or one.device.type != "cpu"}
