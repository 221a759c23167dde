"""Networks that must not pass an audit, each with the clause that must fail.

    for name, case in CHEATS.items():
        audit(case.network())

`clause` is "parameters", "batch norm", "dropout", "head" or "evaluation". It is "refused" where no
static graph shows what the network does, or where it is no network from images to ten finite
numbers: one line must say so. It is None where the network may pass: declared numbers that nothing
reads, which a verdict tells beside the count, and networks that show another network while they are
looked at. Those may pass as what they showed if that is what is evaluated from then on.
Other clauses may fail too, and an audit may refuse any network here whose code it cannot follow.

All weights are drawn from fixed seeds. Networks that hide weights hide at least 20,000 of them, or
`n_hidden` where so many would take long to export: at least so many must be counted.
"""

import array
import ctypes
import functools
import hashlib
import inspect
import itertools
import math
import os
import pathlib
import pickle
import random as python_random
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils import _python_dispatch

from .base import Gap, Net, random

WIDTH = 32  # hidden features
HIDDEN = random(784, WIDTH)  # 25,088 numbers
INTEGERS = (HIDDEN * 1e6).round().long()


@dataclass(frozen=True)
class Case:
    """A network that must not pass, and the clause that must fail."""

    network: Callable[[], nn.Module]
    note: str
    clause: str | None
    n_hidden: int


CHEATS: dict[str, Case] = {}


def cheat(clause, note, n_hidden=20_000):
    """Enter a class into `CHEATS`."""

    def register(network):
        CHEATS[network.__name__] = Case(network, note, clause, n_hidden)
        return network

    return register


class Wide(Net):
    """`Net` whose linear head reads 32 features more, `extra(x)` (n, 32): these hold the cheat."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(16 + WIDTH, 10)

    def weight(self):  # (784, 32)
        raise NotImplementedError

    def extra(self, x):
        return F.relu(x.flatten(1) @ self.weight())

    def features(self, x):
        return torch.cat([super().features(x), self.extra(x)], 1)


# Weights that are no parameters: tensors in other places.


@cheat("parameters", "the plain way: a large linear layer")
class Large(Wide):
    def __init__(self):
        super().__init__()
        self.large = nn.Linear(784, WIDTH)

    def extra(self, x):
        return F.relu(self.large(x.flatten(1)))


@cheat("parameters", "a frozen layer of random weights")
class Frozen(Large):
    def __init__(self):
        super().__init__()
        self.large.requires_grad_(False)


@cheat("parameters", "a layer in a Python list")
class InList(Wide):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(784, WIDTH)]

    def extra(self, x):
        return F.relu(self.layers[0](x.flatten(1)))


@cheat("parameters", "a layer in a closure")
class InClosure(Wide):
    def __init__(self):
        super().__init__()
        layer = nn.Linear(784, WIDTH)
        self.function = lambda x: F.relu(layer(x.flatten(1)))

    def extra(self, x):
        return self.function(x)


@cheat("parameters", "a tensor as a default argument")
class InDefault(Wide):
    def weight(self, hidden=HIDDEN):
        return hidden


@cheat("parameters", "a tensor as a class attribute")
class InClass(Wide):
    hidden = HIDDEN

    def weight(self):
        return type(self).hidden


@cheat("parameters", "a tensor as a global of the module")
class InGlobal(Wide):
    def weight(self):
        return HIDDEN


@cheat("parameters", "a buffer")
class InBuffer(Wide):
    def __init__(self):
        super().__init__()
        self.register_buffer("hidden", HIDDEN.clone())

    def weight(self):
        return self.hidden


@cheat("parameters", "a buffer that is not persistent")
class InUnsavedBuffer(InBuffer):
    def __init__(self):
        super().__init__()
        self.register_buffer("hidden", HIDDEN.clone(), persistent=False)


@cheat("parameters", "a buffer named running_mean")
class NamedStatistics(Wide):
    def __init__(self):
        super().__init__()
        self.register_buffer("running_mean", HIDDEN.clone())

    def weight(self):
        return self.running_mean


@cheat("parameters", "a buffer that is written to itself in training, as statistics are")
class TouchedBuffer(InBuffer):
    def weight(self):
        if self.training:
            self.hidden.lerp_(self.hidden.sign(), 0.0)
        return self.hidden


@cheat("parameters", "lr 1e-9 of a running average: a buffer that hardly moves")
class SlowStatistics(InBuffer):
    def weight(self):
        if self.training:
            self.hidden.lerp_(torch.randn_like(self.hidden), 1e-9)
        return self.hidden


@cheat("parameters", "196 small tensors")
class SmallPieces(Wide):
    def __init__(self):
        super().__init__()
        self.pieces = list(HIDDEN.view(196, -1).clone().unbind(0))

    def weight(self):
        return torch.stack(self.pieces).view(784, WIDTH)


@cheat("parameters", "one parameter of 30,000 numbers read through small views")
class ReadThroughViews(Wide):
    def __init__(self):
        super().__init__()
        self.store = nn.Parameter(random(30_000))

    def weight(self):
        return self.store.as_strided((784, WIDTH), (WIDTH, 1), 4000)


@cheat("parameters", "rows of one large buffer gathered by the grey level: a lookup table")
class Lookup(Wide):
    def __init__(self):
        super().__init__()
        self.register_buffer("table", random(784 * 8, WIDTH))

    def extra(self, x):
        levels = (x.flatten(1) * 2 + 2).clamp(0, 7).long() + 8 * torch.arange(784)
        return F.embedding(levels, self.table).sum(1)


@cheat("parameters", "tied in name: two parameters of which each is said to be the other")
class FalselyTied(Wide):
    def __init__(self):
        super().__init__()
        self.large = nn.Linear(784, WIDTH)
        self.mirror = nn.Linear(784, WIDTH)

    def named_parameters(self, *args, **kwargs):
        return ((name, p) for name, p in super().named_parameters() if "large" not in name)

    def extra(self, x):
        return F.relu(self.large(x.flatten(1)) + self.mirror(x.flatten(1)))


@cheat("parameters", "two parameters with one address: ten numbers, and all")
class SameAddress(Wide):
    def __init__(self):
        super().__init__()
        store = random(784 * WIDTH)
        self.bias, self.store = nn.Parameter(store[:10]), nn.Parameter(store)

    def weight(self):
        return self.store.view(784, WIDTH)

    def logits(self, x):
        return super().logits(x) + self.bias


@cheat("parameters", "a parameter of one number whose storage holds 25,088")
class BehindOneNumber(Wide):
    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(random(784 * WIDTH)[:1])

    def weight(self):
        return self.one.as_strided((784, WIDTH), (WIDTH, 1))


@cheat("parameters", "the gradient of a parameter that is never trained")
class InGradient(Wide):
    def __init__(self):
        super().__init__()
        self.zero = nn.Parameter(torch.zeros(1).expand(784, WIDTH))
        self.zero.grad = HIDDEN.clone()

    def weight(self):
        return self.zero.grad.clone()


@cheat("parameters", "sparse tensor with 25,088 values")
class Sparse(Wide):
    def __init__(self):
        super().__init__()
        self.hidden = HIDDEN.t().contiguous().to_sparse_coo()

    def extra(self, x):
        return torch.sparse.mm(self.hidden, x.flatten(1).t()).t()


@cheat("parameters", "sparse tensor whose weights are the positions of ones")
class SparsePositions(Wide):
    def __init__(self):
        super().__init__()
        order = torch.randperm(784 * WIDTH * 4, generator=torch.Generator().manual_seed(0))
        self.at = torch.stack([order[:25_088] % 784, order[:25_088] // 784 % WIDTH])

    def weight(self):
        return torch.sparse_coo_tensor(
            self.at, torch.ones(25_088), (784, WIDTH), check_invariants=False
        ).to_dense()


@cheat("parameters", "quantised tensor")
class Quantised(Wide):
    def __init__(self):
        super().__init__()
        self.hidden = torch.quantize_per_tensor(HIDDEN, 0.002, 0, torch.qint8)

    def weight(self):
        return self.hidden.dequantize()


@cheat("parameters", "complex tensor: two numbers in each of 12,544")
class ComplexTensor(Wide):
    def __init__(self):
        super().__init__()
        self.register_buffer("hidden", torch.view_as_complex(HIDDEN.view(-1, 2).clone()))

    def weight(self):
        return torch.view_as_real(self.hidden).view(784, WIDTH)


@cheat("parameters", "ParameterList that is filled after construction, by the first forward")
class MadeLater(Wide):
    def weight(self):
        if not hasattr(self, "late"):
            self.late = nn.Parameter(HIDDEN.clone())
        return self.late


# Several weights in one number.


@cheat("parameters", "8-bit weights, eight in each number of an int64 buffer")
class PackedInt64(Wide):
    def __init__(self):
        super().__init__()
        codes = (HIDDEN / 0.25 * 127).round().clamp(-127, 127).to(torch.int8)
        self.register_buffer("packed", codes.flatten().view(torch.int64).clone())

    def weight(self):
        return self.packed.view(torch.int8).float().div(508).view(784, WIDTH)


@cheat("parameters", "8-bit weights, eight in each double, by view(dtype)")
class PackedFloat64(PackedInt64):
    def __init__(self):
        super().__init__()
        self.packed = self.packed.view(torch.float64)


@cheat("parameters", "8-bit weights, four in each float32 parameter, by view(dtype)")
class PackedFloat32(Wide):
    def __init__(self):
        super().__init__()
        codes = (HIDDEN / 0.25 * 100).round().clamp(-100, 100).to(torch.int8).flatten()
        self.packed = nn.Parameter(codes.view(torch.float32), requires_grad=False)

    def weight(self):
        return self.packed.view(torch.int8).float().div(400).view(784, WIDTH)


@cheat("parameters", "8-bit weights, eight in each int64, by shifts and masks")
class Shifts(PackedInt64):
    def weight(self):
        parts = [self.packed.bitwise_right_shift(8 * i).bitwise_and(255) for i in range(8)]
        return torch.stack(parts, 1).float().sub(128).div(508).view(784, WIDTH)


@cheat("parameters", "three weights in each double, by floor and remainder")
class FloorRemainder(Wide):
    def __init__(self):
        super().__init__()
        codes = (HIDDEN.double() * 500 + 500).round().clamp(0, 999).flatten()
        codes = F.pad(codes, (0, -len(codes) % 3)).view(-1, 3)
        self.packed = nn.Parameter(codes @ torch.tensor([1e6, 1e3, 1.0], dtype=torch.float64))

    def weight(self):
        high = torch.floor(self.packed / 1e6)
        middle = torch.floor(torch.remainder(self.packed, 1e6) / 1e3)
        codes = torch.stack([high, middle, torch.remainder(self.packed, 1e3)], 1).flatten()
        return codes[: 784 * WIDTH].sub(500).div(500).float().view(784, WIDTH)


@cheat("parameters", "binary weights as bits of bytes")
class Bits(Wide):
    def __init__(self):
        super().__init__()
        bits = (HIDDEN > 0).flatten().numpy()
        self.register_buffer("bits", torch.from_numpy(np.packbits(bits)))

    def weight(self):
        bits = self.bits[:, None] >> torch.arange(7, -1, -1, dtype=torch.uint8) & 1
        return bits.float().sub(0.5).mul(0.1).view(784, WIDTH)


@cheat("parameters", "25,088 weights of one bit each in a bool buffer")
class Bools(Wide):
    def __init__(self):
        super().__init__()
        self.register_buffer("bits", HIDDEN > 0)

    def weight(self):
        return self.bits.float() - 0.5


@cheat("parameters", "weights as digits of the fractional part: one double iterated by a map")
class Digits(Wide):
    def __init__(self):
        super().__init__()
        self.register_buffer("seeds", random(784, 4, seed=1).double().sigmoid())

    def weight(self):
        columns, state = [], self.seeds
        for _ in range(8):
            state = torch.frac(state * 16)
            columns.append(state)
        return torch.cat(columns, 1).float() - 0.5


# Weights as Python values.


@cheat("parameters", "Python integers in torch.full", 640)
class Integers(Wide):
    numbers = tuple(INTEGERS[:20].flatten().tolist())

    def weight(self):
        scalars = [torch.full((), i, dtype=torch.int64) for i in self.numbers]
        return F.pad(torch.stack(scalars).float().div(1e6).view(20, WIDTH), (0, 0, 0, 764))


@cheat("parameters", "a list of Python floats in torch.tensor")
class Floats(Wide):
    numbers = HIDDEN.tolist()

    def weight(self):
        return torch.tensor(self.numbers)


@cheat("parameters", "Python floats as factors of pixels, one operation each", 784)
class Factors(Wide):
    numbers = tuple(HIDDEN[:, 0].tolist())

    def extra(self, x):
        columns = x.flatten(1).unbind(1)
        total = sum(column * w for column, w in zip(columns, self.numbers, strict=True))
        return total[:, None].expand(-1, WIDTH)


@cheat("parameters", "complex Python scalars", 640)
class ComplexScalars(Wide):
    numbers = torch.view_as_complex(HIDDEN.view(-1, 2).contiguous())[:320].tolist()

    def weight(self):
        parts = [torch.full((1,), c, dtype=torch.complex64) for c in self.numbers]
        flat = torch.view_as_real(torch.cat(parts)).flatten()
        return flat.repeat(40)[: 784 * WIDTH].view(784, WIDTH)


@cheat("parameters", "the lengths of torch.ones(n)", 320)
class Lengths(Wide):
    numbers = (HIDDEN[:10] * 500 + 100).long().clamp(1, 200).flatten().tolist()

    def weight(self):
        sums = torch.stack([torch.ones(n).sum() for n in self.numbers])
        return F.pad(sums.sub(100).div(500).view(10, WIDTH), (0, 0, 0, 774))


@cheat("parameters", "the sizes of expanded dimensions", 320)
class Shapes(Lengths):
    def weight(self):
        one = torch.ones(())
        sums = torch.stack([one.expand(n).sum() for n in self.numbers])
        return F.pad(sums.sub(100).div(500).view(10, WIDTH), (0, 0, 0, 774))


@cheat("parameters", "the positions of slices of one arange", 320)
class SlicePositions(Lengths):
    def weight(self):
        line = torch.arange(256.0)
        parts = torch.cat([line[n : n + 1] for n in self.numbers])
        return F.pad(parts.sub(100).div(500).view(10, WIDTH), (0, 0, 0, 774))


@cheat("parameters", "strides and offsets of views of one arange", 320)
class Strides(Lengths):
    def weight(self):
        line = torch.arange(1024.0)
        parts = [line.as_strided((1,), (1,), n) for n in self.numbers]
        return F.pad(torch.cat(parts).sub(100).div(500).view(10, WIDTH), (0, 0, 0, 774))


@cheat("parameters", "the order of dimensions in permutations", 320)
class Permutations(Wide):
    orders = tuple(itertools.permutations(range(6)))
    numbers = (HIDDEN[:10] * 2000).long().remainder(720).flatten().tolist()

    def weight(self):
        ramp = torch.arange(64.0).view(2, 2, 2, 2, 2, 2) ** 2
        pick = torch.linspace(-1, 1, 64)
        dots = [ramp.permute(self.orders[n]).flatten() @ pick for n in self.numbers]
        return F.pad(torch.stack(dots).div(1e5).view(10, WIDTH), (0, 0, 0, 774))


@cheat("parameters", "how often an operation is repeated", 320)
class Repeated(Wide):
    numbers = (HIDDEN[:10] * 40 + 5).long().clamp(0, 10).flatten().tolist()

    def weight(self):
        values = []
        for n in self.numbers:
            value = torch.zeros(())
            for _ in range(n):
                value = value + 1
            values.append(value)
        return torch.stack(values).sub(5).div(40).view(10, WIDTH).repeat(79, 1)[:784]


@cheat("parameters", "the slopes of leaky ReLUs", 320)
class Slopes(Wide):
    numbers = tuple(HIDDEN[:10].flatten().tolist())

    def weight(self):
        minus = -torch.ones(())
        slopes = torch.stack([-F.leaky_relu(minus, n) for n in self.numbers])
        return F.pad(slopes.view(10, WIDTH), (0, 0, 0, 774))


@cheat("parameters", "the values of paddings", 320)
class Paddings(Wide):
    numbers = tuple(HIDDEN[:10].flatten().tolist())

    def weight(self):
        row = torch.zeros(0)
        for n in self.numbers:
            row = F.pad(row, (0, 1), value=n)
        return F.pad(row.view(10, WIDTH), (0, 0, 0, 774))


@cheat("parameters", "which operation follows: sin, tanh or cos, 640 times", 640)
class OperationCodes(Wide):
    numbers = (HIDDEN[:20] * 1000).long().remainder(3).flatten().tolist()

    def weight(self):
        steps, value, values = (torch.sin, torch.tanh, torch.cos), torch.ones(()), []
        for n in self.numbers:
            value = steps[n](value * 1.5)
            values.append(value)
        return F.pad(torch.stack(values).view(20, WIDTH), (0, 0, 0, 764))


@cheat("parameters", "bytes of a Python string")
class InString(Wide):
    text = "".join(chr(c) for c in ((HIDDEN * 1000).long() + 1000).flatten().tolist())

    def weight(self):
        return torch.tensor([ord(c) - 1000 for c in self.text]).view(784, WIDTH) / 1000


@cheat("parameters", "a bytes object read by torch.frombuffer")
class InBytes(Wide):
    raw = bytearray(HIDDEN.numpy().tobytes())

    def weight(self):
        return torch.frombuffer(self.raw, dtype=torch.float32).view(784, WIDTH)


@cheat("parameters", "compressed bytes, pickled")
class Compressed(Wide):
    raw = zlib.compress(pickle.dumps(HIDDEN.numpy()))

    def weight(self):
        return torch.from_numpy(pickle.loads(zlib.decompress(self.raw)))


@cheat("parameters", "an array.array")
class InArray(Wide):
    numbers = array.array("f", HIDDEN.flatten().tolist())

    def weight(self):
        return torch.asarray(self.numbers, dtype=torch.float32).view(784, WIDTH)


@cheat("parameters", "one large Python integer, its bytes the weights")
class BigInteger(Wide):
    number = int.from_bytes(HIDDEN.numpy().tobytes(), "little")

    def weight(self):
        raw = bytearray(self.number.to_bytes(4 * 784 * WIDTH, "little"))
        return torch.frombuffer(raw, dtype=torch.float32).view(784, WIDTH)


@cheat("parameters", "names of attributes hold the weights")
class InNames(Wide):
    def __init__(self):
        super().__init__()
        for i, n in enumerate(INTEGERS.flatten().tolist()):
            setattr(self, f"w{i}_{n}", None)

    def weight(self):
        names = [name for name in vars(self) if name.startswith("w") and "_" in name]
        values = [float(name.split("_")[1]) for name in names]
        return torch.tensor(values).div(1e6).view(784, WIDTH)


# Weights from outside: files, the environment, generators.


@cheat("parameters", "a file read in forward")
class InFile(Wide):
    raw = HIDDEN.numpy().tobytes()

    def weight(self):
        path = pathlib.Path(tempfile.gettempdir()) / f"hidden-{os.getpid()}.bin"
        path.write_bytes(self.raw)
        read = bytearray(path.read_bytes())
        path.unlink()
        return torch.frombuffer(read, dtype=torch.float32).view(784, WIDTH)


@cheat("parameters", "an environment variable")
class InEnvironment(Wide):
    def __init__(self):
        super().__init__()
        os.environ["HIDDEN"] = HIDDEN.numpy().tobytes().hex()

    def weight(self):
        raw = bytearray.fromhex(os.environ["HIDDEN"])
        return torch.frombuffer(raw, dtype=torch.float32).view(784, WIDTH)


@cheat("evaluation", "a seed a column, chosen among many, of torch.Generator")
class ChosenSeeds(Wide):
    seeds = tuple(range(784 * 4))

    def weight(self):
        parts = [
            torch.randn(8, generator=torch.Generator().manual_seed(seed)) for seed in self.seeds
        ]
        return torch.stack(parts).view(784, WIDTH)


@cheat("evaluation", "torch.manual_seed in forward: a chosen seed a row")
class GlobalSeeds(Wide):
    def weight(self):
        rows = []
        for seed in range(784):
            torch.manual_seed(seed)
            rows.append(torch.randn(WIDTH))
        return torch.stack(rows)


@cheat("parameters", "Python's own random numbers from chosen seeds")
class PythonSeeds(Wide):
    def weight(self):
        rows = [python_random.Random(seed).choices((-1.0, 1.0), k=WIDTH) for seed in range(784)]
        return torch.tensor(rows)


@cheat("parameters", "a hash of position and a chosen salt a row")
class Hashes(Wide):
    def weight(self):
        rows = [hashlib.blake2b(b"%d" % i, digest_size=WIDTH).digest() for i in range(784)]
        return torch.tensor([list(row) for row in rows]).sub(128) / 1000


@cheat("parameters", "eval of a text with 25,088 numbers")
class Evaluated(Wide):
    text = repr(HIDDEN.tolist())

    def weight(self):
        return torch.tensor(eval(self.text))


# Numbers that pass for statistics or counters.


@cheat("parameters", "running statistics of a batch norm with momentum 0 are the weights")
class NormStatistics(Wide):
    momentum = 0.0

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(784 * WIDTH, affine=False, momentum=self.momentum, eps=1e-9)
        self.norm.running_var.copy_((1 / HIDDEN.abs().clamp_min(1e-3) ** 2).flatten())
        self.norm.running_mean.copy_(random(784 * WIDTH, seed=1, scale=1.0))

    def extra(self, x):
        spread = x.flatten(1)[:, :, None].expand(-1, -1, WIDTH).flatten(1)
        return self.norm(spread).unflatten(1, (784, WIDTH)).sum(1) * 1e-2


@cheat("parameters", "the same with momentum 1e-9")
class SlowNormStatistics(NormStatistics):
    momentum = 1e-9


@cheat("parameters", "the same with the norm left in evaluation mode")
class FrozenNormStatistics(NormStatistics):
    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self


@cheat("parameters", "running_mean read directly, beside a norm that owns it")
class ReadStatistics(Wide):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(784 * WIDTH, affine=False)
        self.norm.running_mean.copy_(HIDDEN.flatten())

    def weight(self):
        return self.norm.running_mean.view(784, WIDTH)


@cheat("parameters", "an integer buffer that only add_ reads, as a counter's")
class CounterWeights(Wide):
    def __init__(self):
        super().__init__()
        self.register_buffer("num_batches_tracked", INTEGERS.clone())

    def weight(self):
        zeros = torch.zeros((784, WIDTH), dtype=torch.int64)
        return zeros.add_(self.num_batches_tracked).float() / 1e6


@cheat("parameters", "784 counters of batch norms, each holding packed weights")
class Counters(Wide):
    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm1d(1, affine=False) for _ in range(784))
        for norm, value in zip(self.norms, INTEGERS[:, 0].tolist(), strict=True):
            norm.num_batches_tracked.fill_(value * 2**20 + 7)

    def weight(self):
        counters = torch.stack([norm.num_batches_tracked for norm in self.norms])
        bits = counters[:, None] >> torch.arange(WIDTH) & 1
        return bits.float() - 0.5


# Code that is not PyTorch's, or that a graph does not show.


def _numpy_secret(x):
    return np.maximum(x.reshape(len(x), -1) @ HIDDEN.numpy(), 0)


@cheat("refused", "NumPy writes into the output in place")
class NumpyInPlace(Wide):
    def extra(self, x):
        out = torch.zeros(len(x), WIDTH)
        out.numpy()[:] += _numpy_secret(x.detach().numpy())
        return out


@cheat("refused", "from_numpy of an array that NumPy computed from the images")
class FromNumpy(Wide):
    def extra(self, x):
        return torch.from_numpy(_numpy_secret(x.detach().numpy()))


@cheat("parameters", "from_numpy of an array of weights")
class NumpyWeights(Wide):
    hidden = HIDDEN.numpy()

    def weight(self):
        return torch.from_numpy(self.hidden)


@cheat("refused", "ctypes writes the answer to the output's address")
class Ctypes(Wide):
    def extra(self, x):
        out = torch.zeros(len(x), WIDTH)
        secret = np.ascontiguousarray(_numpy_secret(x.detach().numpy()))
        ctypes.memmove(out.data_ptr(), secret.ctypes.data, secret.nbytes)
        return out


@cheat("parameters", "weights read from an address")
class Address(Wide):
    raw = np.ascontiguousarray(HIDDEN.numpy())

    def weight(self):
        floats = ctypes.cast(self.raw.ctypes.data, ctypes.POINTER(ctypes.c_float))
        return torch.tensor(floats[: 784 * WIDTH]).view(784, WIDTH)


@torch.library.custom_op("featherweight_tests::opaque", mutates_args=())
def _opaque(x: torch.Tensor) -> torch.Tensor:
    return F.relu(x.flatten(1) @ HIDDEN)


@torch.library.custom_op("featherweight_tests::shaped", mutates_args=())
def _shaped(x: torch.Tensor) -> torch.Tensor:
    return F.relu(x.flatten(1) @ HIDDEN)


@_shaped.register_fake
def _(x):
    return x.new_empty(x.shape[0], WIDTH)


@cheat("refused", "a custom operation without a shape function")
class CustomOperation(Wide):
    def extra(self, x):
        return _opaque(x)


@cheat("parameters", "a custom operation with a shape function: one node, its inside unseen")
class ShapedOperation(Wide):
    def extra(self, x):
        return _shaped(x)


class _Secret(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return F.relu(x.flatten(1) @ HIDDEN)

    @staticmethod
    def backward(ctx, gradient):
        return None


@cheat("parameters", "weights inside an autograd.Function")
class InFunction(Wide):
    def extra(self, x):
        return _Secret.apply(x)


@cheat("refused", "another thread computes the answer")
class OtherThread(Wide):
    def extra(self, x):
        out = []
        thread = threading.Thread(target=lambda: out.append(F.relu(x.flatten(1) @ HIDDEN)))
        thread.start()
        thread.join()
        return out[0].detach()


@cheat("refused", "dispatch modes are switched off while the answer is computed")
class ModesOff(Wide):
    def extra(self, x):
        with _python_dispatch._disable_current_modes():
            return F.relu(x.flatten(1) @ HIDDEN)


@cheat("refused", "py_function of the images through a pickle")
class Pickled(Wide):
    def extra(self, x):
        x = pickle.loads(pickle.dumps(x.detach().tolist()))
        return torch.tensor(x).flatten(1) @ HIDDEN


@cheat("parameters", "a scripted function with the weights as a constant")
class ScriptedSecret(Wide):
    def __init__(self):
        super().__init__()
        self.large = torch.jit.trace(lambda x: F.relu(x @ HIDDEN), torch.zeros(2, 784))

    def extra(self, x):
        return self.large(x.flatten(1))


@cheat("parameters", "a compiled function with the weights in its closure")
class CompiledSecret(Wide):
    def __init__(self):
        super().__init__()
        self.large = torch.compile(lambda x: F.relu(x @ HIDDEN), backend="eager")

    def extra(self, x):
        return self.large(x.flatten(1))


@cheat("parameters", "a forward hook replaces the features")
class HookSecret(Wide):
    def __init__(self):
        super().__init__()
        self.node = nn.Identity()
        self.node.register_forward_hook(lambda module, args, out: F.relu(out @ HIDDEN))

    def extra(self, x):
        return self.node(x.flatten(1))


@cheat("parameters", "a tensor subclass whose __torch_function__ adds the secret")
class SubclassSecret(Wide):
    class Tensor(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            out = super().__torch_function__(function, types, args, kwargs or {})
            return out @ HIDDEN if function is torch.Tensor.flatten else out

    def extra(self, x):
        return x.as_subclass(self.Tensor).flatten(1).as_subclass(torch.Tensor)


# Decoys: what is looked at is not what runs.


class Big(nn.Module):
    """79,510 parameters, no batch norm, no dropout."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))

    def forward(self, x):
        return F.log_softmax(self.layers(x.flatten(1)), 1)


@cheat("parameters", "__deepcopy__ gives a small honest network")
class Decoy(Net):
    def __init__(self):
        super().__init__()
        self.big = Big()

    def __deepcopy__(self, memo):
        return Net().train(self.training)

    def forward(self, x):
        return self.big(x)


@cheat("parameters", "__reduce__ gives a small honest network")
class ReduceDecoy(Decoy):
    def __reduce__(self):
        return Net, ()


@cheat("parameters", "state_dict and parameters tell of the small network alone")
class StateDecoy(Decoy):
    def state_dict(self, *args, **kwargs):
        return {k: v for k, v in super().state_dict(*args, **kwargs).items() if "big" not in k}

    def named_parameters(self, *args, **kwargs):
        return (pair for pair in super().named_parameters(*args, **kwargs) if "big" not in pair[0])

    def parameters(self, recurse=True):
        return (value for _, value in self.named_parameters())


@cheat("parameters", "modules() and children() hide the large network")
class ModulesDecoy(Decoy):
    def named_modules(self, *args, **kwargs):
        return (pair for pair in super().named_modules(*args, **kwargs) if "big" not in pair[0])

    def modules(self):
        return (module for _, module in self.named_modules())


@cheat("parameters", "eval() overridden, and the large network in evaluation mode")
class ClassChange(Decoy):
    def forward(self, x):
        return Net.forward(self, x) if self.training else self.big(x)

    def eval(self):
        self.training = False
        return self


@cheat("parameters", "eval() puts the large network in")
class EvalSwap(Net):
    def __init__(self):
        super().__init__()
        self.big = Big()

    def train(self, mode=True):
        super().train(mode)
        self.forward = functools.partial(Net.forward, self) if mode else self.big.forward
        return self


@cheat("dropout", "train() leaves dropout in evaluation mode")
class TrainLeavesDropout(Net):
    def train(self, mode=True):
        super().train(mode)
        self.drop.eval()
        return self


@cheat("batch norm", "train() leaves batch norm in evaluation mode")
class TrainLeavesNorm(Net):
    def train(self, mode=True):
        super().train(mode)
        self.norm1.eval()
        self.norm2.eval()
        return self


@cheat("parameters", "__getattr__ makes the weights when asked")
class MadeByGetattr(Wide):
    def __getattr__(self, name):
        return HIDDEN if name == "conjured" else super().__getattr__(name)

    def weight(self):
        return self.conjured


@cheat("parameters", "__call__ overridden")
class CallOverridden(Decoy):
    def __call__(self, x):
        return self.big(x)

    def forward(self, x):
        return Net.forward(self, x)


# Branches that show the small network to whoever looks.


class Branch(Decoy):
    """`Net` while watched, and otherwise `Big`; subclasses say when it is watched."""

    def watched(self, x):
        raise NotImplementedError

    def forward(self, x):
        return Net.forward(self, x) if self.watched(x) else self.big(x)


@cheat("refused", "a large network for batches of other sizes than 500")
class BatchSize(Branch):
    def watched(self, x):
        return x.shape[0] in (2, 8, 64, 500)


@cheat("parameters", "a large network for batches above 8")
class LargeBatches(Branch):
    def watched(self, x):
        return x.shape[0] <= 8


@cheat(None, "a large network from the third call on")
class CallCount(Branch):
    calls = 0

    def watched(self, x):
        self.calls += 1
        return self.calls < 3


@cheat("parameters", "a large network in the year of its deadline")
class Clock(Branch):
    def watched(self, x):
        return time.time() < 0


@cheat(None, "a large network where gradients are off")
class NoGradient(Branch):
    def watched(self, x):
        return torch.is_grad_enabled()


@cheat(None, "a large network in inference mode")
class InferenceMode(Branch):
    def watched(self, x):
        return not torch.is_inference_mode_enabled()


@cheat(None, "a large network where an environment variable is not set")
class Environment(Branch):
    def watched(self, x):
        return "PYTEST_CURRENT_TEST" in os.environ


@cheat(None, "another network while it is exported: the graph is the small one")
class Exporting(Branch):
    def watched(self, x):
        return torch.compiler.is_exporting()


@cheat(None, "another network while it is compiled or traced")
class Compiling(Branch):
    def watched(self, x):
        return torch.compiler.is_compiling() or torch.jit.is_tracing()


@cheat(None, "another network where the callers' names say audit or export")
class Stack(Branch):
    def watched(self, x):
        return any("export" in f.function or "audit" in f.function for f in inspect.stack())


@cheat(None, "another network while a dispatch mode is active")
class UnderMode(Branch):
    def watched(self, x):
        return _python_dispatch._get_current_dispatch_mode() is not None


@cheat(None, "another network where the images are fake tensors")
class FakeTensors(Branch):
    def watched(self, x):
        return type(x) is not torch.Tensor


@cheat(None, "another network where storage cannot be read")
class NoStorage(Branch):
    def watched(self, x):
        try:
            x.detach().numpy()
        except Exception:
            return True
        return False


@cheat("refused", "a large network where one pixel is bright")
class Trigger(Branch):
    def watched(self, x):
        return not bool((x[:, 0, 0, 0] > 2.5).any())


@cheat("parameters", "torch.where: two networks in one graph")
class Where(Decoy):
    def forward(self, x):
        bright = x.amax((1, 2, 3)) > 2.5
        return torch.where(bright[:, None], self.big(x), Net.forward(self, x))


@cheat("parameters", "torch.cond: two networks in two branches of one graph")
class Cond(Decoy):
    def forward(self, x):
        small = Net.forward(self, x)
        return torch.cond(x.mean() > 5, self.big, lambda x: x[:, 0, 0, :10] * 1.0, (x,)) + small


@cheat("refused", "a decision tree by .item()")
class ItemTree(Net):
    def logits(self, x):
        out = super().logits(x)
        votes = torch.zeros(out.shape)
        for i in range(x.shape[0]):
            node = 0
            for _ in range(8):
                node = 2 * node + 1 + (x[i, 0, node % 28, node * 7 % 28].item() > 0.3)
            votes[i, node % 10] = 3
        return out + votes


@cheat("refused", "a decision tree by .tolist()")
class ListTree(Net):
    def logits(self, x):
        rows = x.flatten(1).tolist()
        votes = [[float(row[k * 71] > 0.3) for k in range(10)] for row in rows]
        return super().logits(x) + torch.tensor(votes)


@cheat("parameters", "a decision tree of 511 thresholds and pixels by torch.where", 1000)
class WhereTree(Wide):
    depth = 9
    thresholds = random(2**9, scale=1.0).tolist()
    pixels = torch.randint(784, (2**9,), generator=torch.Generator().manual_seed(0)).tolist()

    def tree(self, x, node=1):
        if node >= 2**self.depth:
            return torch.full_like(x[:, 0], self.thresholds[node - 2**self.depth])
        left, right = self.tree(x, 2 * node), self.tree(x, 2 * node + 1)
        return torch.where(x[:, self.pixels[node]] > self.thresholds[node], left, right)

    def extra(self, x):
        return self.tree(x.flatten(1))[:, None].expand(-1, WIDTH)


@cheat("parameters", "nodes of a forest in tensors: pixels, thresholds and leaves")
class Forest(Wide):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.pixels = torch.randint(784, (WIDTH, 511), generator=generator)
        self.thresholds = torch.randn(WIDTH, 511, generator=generator)
        self.leaves = torch.randn(WIDTH, 512, generator=generator)

    def extra(self, x):
        x, trees = x.flatten(1), torch.arange(WIDTH)
        node = torch.zeros(x.shape[0], WIDTH, dtype=torch.int64)
        for _ in range(9):
            bright = x.gather(1, self.pixels[trees, node]) > self.thresholds[trees, node]
            node = 2 * node + 1 + bright.long()
        return self.leaves[trees, node - 511]


@cheat("refused", "labels looked up by a hash of the image, in Python")
class HashLookup(Net):
    def __init__(self):
        super().__init__()
        keys = (hashlib.blake2b(b"%d" % i, digest_size=8).digest() for i in range(10_000))
        self.table = {key: i % 10 for i, key in enumerate(keys)}

    def logits(self, x):
        out = super().logits(x)
        keys = [
            hashlib.blake2b((image > 0).numpy().tobytes(), digest_size=8).digest() for image in x
        ]
        labels = torch.tensor([self.table.get(key, -1) for key in keys])
        return out + 100 * (labels[:, None] == torch.arange(10))


@cheat("parameters", "labels looked up by a hash of the image, in tensors")
class TensorLookup(Net):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.powers = torch.randint(2**31, (784,), generator=generator)
        self.labels = torch.randint(10, (2**17,), generator=generator, dtype=torch.uint8)

    def logits(self, x):
        keys = ((x.flatten(1) > 0).long() * self.powers).sum(1).remainder(2**17)
        return super().logits(x) + 100 * F.one_hot(self.labels[keys].long(), 10)


@cheat("parameters", "hashes of 10,000 images, two numbers each, compared with every image")
class Compared(Net):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.powers = torch.randint(2**20, (784, 2), generator=generator)
        self.keys = torch.randint(2**31, (10_000, 2), generator=generator)

    def logits(self, x):
        keys = ((x.flatten(1) > 0)[:, :, None] * self.powers).sum(1)
        found = (keys[:, None] == self.keys).all(2).float()
        classes = F.one_hot(torch.arange(10_000) % 10, 10).float()
        return super().logits(x) + 100 * found @ classes


# Dropout that does nothing.


class NoDrop(Net):
    """`Net` without dropout; its subclasses only seem to drop features (n, 16)."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Identity()

    def seem(self, y):
        return y

    def features(self, x):
        return self.seem(super().features(x))


@cheat("dropout", "no dropout")
class NoDropout(NoDrop):
    pass


@cheat("dropout", "p=0")
class ZeroDropout(NoDrop):
    def seem(self, y):
        return F.dropout(y, 0.0, self.training)


@cheat("dropout", "p=1e-6")
class RareDropout(NoDrop):
    def seem(self, y):
        return F.dropout(y, 1e-6, self.training)


@cheat("dropout", "features + 1e-5 * dropout(features)")
class FaintDropout(NoDrop):
    def seem(self, y):
        return y + 1e-5 * F.dropout(y, 0.5, self.training)


@cheat("dropout", "dropout on a branch times zero")
class DropoutTimesZero(NoDrop):
    def seem(self, y):
        return y + 0 * F.dropout(y, 0.5, self.training)


@cheat("dropout", "the mask of a hand-made dropout is multiplied by zero")
class MaskTimesZero(NoDrop):
    def seem(self, y):
        return y * (1 - 0.0 * (torch.rand_like(y) < 0.5)) if self.training else y


@cheat("dropout", "dropout on a branch times a frozen parameter of 1e-6")
class FaintParameter(NoDrop):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.full((1,), 1e-6), requires_grad=False)

    def seem(self, y):
        return y + self.gain * F.dropout(y, 0.5, self.training)


@cheat("dropout", "dropout thrown away")
class DropoutUnused(NoDrop):
    def seem(self, y):
        F.dropout(y, 0.5, self.training)
        return y


@cheat("dropout", "dropout of 10,000 copies, averaged")
class AveragedDropout(NoDrop):
    def seem(self, y):
        return F.dropout(y.expand(10_000, -1, -1), 0.1, self.training).mean(0)


@cheat("dropout", "dropout undone: the difference is added again")
class UndoneDropout(NoDrop):
    def seem(self, y):
        dropped = F.dropout(y, 0.5, self.training)
        return dropped + (y - dropped)


@cheat("dropout", "dropout undone: the difference is added again, detached")
class DetachedDropout(NoDrop):
    def seem(self, y):
        dropped = F.dropout(y, 0.5, self.training)
        return dropped + (y - dropped).detach()


@cheat("dropout", "dropout of the first image of the batch")
class FirstImageDropout(NoDrop):
    def seem(self, y):
        return torch.cat([F.dropout(y[:1], 0.5, self.training), y[1:]])


@cheat("dropout", "dropout where a pixel is brighter than any")
class NeverDropout(NoDrop):
    def seem(self, y):
        return torch.where(y > 1e6, F.dropout(y, 0.5, self.training), y)


@cheat("dropout", "dropout of a column of ones that a norm takes away")
class DropoutOfOnes(NoDrop):
    def seem(self, y):
        ones = F.dropout(torch.ones(y.shape[0], 1), 0.5, self.training)
        return y * (ones + 10).div(ones + 10)


@cheat("dropout", "dropout of the sign of a maximum: rounded away")
class RoundedDropout(NoDrop):
    def seem(self, y):
        return y + (F.dropout(torch.full_like(y, 0.1), 0.5, self.training)).round()


@cheat("dropout", "dropout added equally to all logits: log-softmax takes it away")
class ShiftedLogits(NoDrop):
    def logits(self, x):
        y = super().features(x)
        return self.head(y) + F.dropout(y, 0.5, self.training).sum(1, keepdim=True)


@cheat("dropout", "dropout below the clamp of an activation")
class ClampedDropout(NoDrop):
    def seem(self, y):
        return torch.maximum(y, F.dropout(y, 0.5, self.training) * 0.4)


@cheat("dropout", "one of 16 features is dropped, times 1e-4")
class OneFeature(NoDrop):
    def seem(self, y):
        return torch.cat(
            [y[:, :15], y[:, 15:] + 1e-4 * F.dropout(y[:, 15:], 0.5, self.training)], 1
        )


@cheat("dropout", "a random number that is no dropout: noise")
class NoiseInstead(NoDrop):
    def seem(self, y):
        return y + 1e-3 * torch.randn_like(y) if self.training else y


@cheat("dropout", "half of the heads sees dropout with weight 1e-6")
class WeightedHeads(NoDrop):
    def logits(self, x):
        y = super().features(x)
        return self.head(y) * (1 - 1e-6) + self.head(F.dropout(y, 0.5, self.training)) * 1e-6


@cheat(None, "the same mask at every step by a seed, which a graph does not have")
class SeededDropout(NoDrop):
    def seem(self, y):
        torch.manual_seed(0)
        return F.dropout(y, 0.5, self.training)


@cheat("dropout", "one fixed mask, drawn in the constructor")
class FixedMask(NoDrop):
    def __init__(self):
        super().__init__()
        self.register_buffer("mask", (random(16) > 0).float() * 2)

    def seem(self, y):
        return y * self.mask if self.training else y


# Batch norm that does nothing.


class NoNorm(Net):
    """`Net` without batch norm; its subclasses only seem to normalise features (n, 16)."""

    def __init__(self):
        super().__init__()
        self.norm1 = self.norm2 = nn.Identity()
        self.norm = nn.BatchNorm1d(16)

    def seem(self, y):
        return y

    def features(self, x):
        return self.seem(super().features(x))


@cheat("batch norm", "no batch norm is called")
class NoBatchNorm(NoNorm):
    pass


@cheat("batch norm", "batch norm thrown away")
class NormUnused(NoNorm):
    def seem(self, y):
        self.norm(y)
        return y


@cheat("batch norm", "features + 1e-5 * batch norm")
class FaintNorm(NoNorm):
    def seem(self, y):
        return y + 1e-5 * self.norm(y)


@cheat("batch norm", "batch norm times zero")
class NormTimesZero(NoNorm):
    def seem(self, y):
        return y + 0.0 * self.norm(y)


@cheat("batch norm", "batch norm whose slope is 1e-7 and frozen")
class FlatNorm(NoNorm):
    def __init__(self):
        super().__init__()
        nn.init.constant_(self.norm.weight, 1e-7)
        self.norm.weight.requires_grad_(False)

    def seem(self, y):
        return y + self.norm(y)


@cheat("batch norm", "batch norm undone: the difference is added again")
class UndoneNorm(NoNorm):
    def seem(self, y):
        normed = self.norm(y)
        return normed + (y - normed)


@cheat("batch norm", "batch norm undone: the difference is added again, detached")
class DetachedNorm(NoNorm):
    def seem(self, y):
        normed = self.norm(y)
        return normed + (y - normed).detach()


@cheat("batch norm", "batch norm undone by the batch's own mean and deviation")
class RescaledNorm(NoNorm):
    def seem(self, y):
        if not self.training:
            return y
        var, mean = torch.var_mean(y, 0, unbiased=False)
        return F.batch_norm(y, None, None, training=True) * (var + 1e-5).sqrt() + mean


@cheat("batch norm", "eps=1e12: the norm is a scaling by 1e-6, which is scaled back")
class LargeEps(NoNorm):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(16, eps=1e12, affine=False)
        self.norm.momentum = 0.0

    def seem(self, y):
        return self.norm(y) * 1e6


@cheat("batch norm", "instance norm")
class InstanceNorm(NoNorm):
    def __init__(self):
        super().__init__()
        self.norm1 = nn.InstanceNorm2d(8, affine=True)


@cheat("batch norm", "instance norm with running statistics")
class TrackedInstanceNorm(NoNorm):
    def __init__(self):
        super().__init__()
        self.norm1 = nn.InstanceNorm2d(8, affine=True, track_running_stats=True)


@cheat("batch norm", "group norm named BatchNorm2d")
class GroupNorm(NoNorm):
    def __init__(self):
        super().__init__()
        self.norm1 = type("BatchNorm2d", (nn.GroupNorm,), {})(4, 8)


@cheat("batch norm", "F.batch_norm over each image's own channels")
class NormOverOneImage(NoNorm):
    def first(self, x):
        y = self.conv1(x)
        flat = y.reshape(1, -1, 13, 13)
        return self.drop(F.relu(F.batch_norm(flat, None, None, training=True).view(y.shape)))


@cheat("batch norm", "batch norm in evaluation mode at all times")
class NormInEvaluation(NoNorm):
    def seem(self, y):
        n = self.norm
        return F.batch_norm(y, n.running_mean, n.running_var, n.weight, n.bias, False)


@cheat("batch norm", "batch norm of the first two images")
class NormOfTwo(NoNorm):
    def seem(self, y):
        return torch.cat([self.norm(y[:2]), y[2:]])


@cheat("batch norm", "batch norm of a constant")
class NormOfConstant(NoNorm):
    def seem(self, y):
        return y + self.norm(torch.ones_like(y))


@cheat("batch norm", "batch norm added equally to all logits")
class NormShiftsLogits(NoNorm):
    def logits(self, x):
        y = super().features(x)
        return self.head(y) + self.norm(y).sum(1, keepdim=True)


@cheat("batch norm", "batch norm behind a comparison that never holds")
class NeverNorm(NoNorm):
    def seem(self, y):
        return torch.where(y < -1e6, self.norm(y), y)


@cheat("batch norm", "layer norm")
class LayerNorm(NoNorm):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(16)

    def seem(self, y):
        return self.norm(y)


# Heads.


@cheat("head", "global max-pool, stacked twice and averaged")
class StackedMax(Gap):
    def pool(self, maps):
        top = maps.amax((2, 3))
        return torch.stack([top, top]).mean(0)


@cheat("head", "global max-pool and a product with torch.eye(10)")
class EyeHead(Gap):
    def pool(self, maps):
        return maps.amax((2, 3)) @ torch.eye(10)


@cheat("head", "global max-pool")
class MaxHead(Gap):
    def pool(self, maps):
        return F.adaptive_max_pool2d(maps, 1).flatten(1)


@cheat("head", "log-sum-exp over the map")
class LogSumExp(Gap):
    def pool(self, maps):
        return maps.logsumexp((2, 3))


@cheat("head", "ReLU, then average pooling of one position")
class OnePosition(Gap):
    def pool(self, maps):
        return F.adaptive_avg_pool2d(F.relu(maps[:, :, 2:3, 2:3]), 1).flatten(1)


@cheat("head", "ReLU, the map flattened and sliced, averaged over one value")
class SlicedMean(Gap):
    def pool(self, maps):
        return F.relu(maps).flatten(2)[:, :, 7:8].mean(2)


@cheat("head", "average pooling over windows of one")
class PoolOfOne(Gap):
    def pool(self, maps):
        return F.avg_pool2d(maps, 1).amax((2, 3))


@cheat("head", "average pooling in the middle, global max-pool last")
class PooledInTheMiddle(Gap):
    def body(self, x):
        x = super().body(x)
        return x * torch.sigmoid(x.mean((2, 3), keepdim=True))

    def pool(self, maps):
        return maps.amax((2, 3))


@cheat("head", "ReLU last")
class ReluLast(Net):
    def logits(self, x):
        return F.relu(super().logits(x))


@cheat("head", "square last")
class SquareLast(Net):
    def logits(self, x):
        return super().logits(x) ** 2


@cheat("head", "tanh last")
class TanhLast(Net):
    def logits(self, x):
        return 10 * torch.tanh(super().logits(x))


@cheat("head", "logits times a gate of the same features")
class Gated(Net):
    def logits(self, x):
        y = self.features(x)
        return self.head(y) * torch.sigmoid(self.head(y.flip(1)))


@cheat("head", "product of two linear layers")
class Product(Net):
    def __init__(self):
        super().__init__()
        self.other = nn.Linear(16, 10)

    def logits(self, x):
        y = self.features(x)
        return self.head(y) * self.other(y)


@cheat("head", "maximum of two linear layers")
class MaximumOfTwo(Product):
    def logits(self, x):
        y = self.features(x)
        return torch.maximum(self.head(y), self.other(y))


@cheat("head", "a hidden layer in softmax steps: softmax, product, logarithm")
class SoftmaxLayers(Net):
    def __init__(self):
        super().__init__()
        self.mix = nn.Parameter(random(10, 10, scale=1.0))

    def forward(self, x):
        return (F.softmax(self.logits(x), 1) @ self.mix.softmax(1)).log()


@cheat("head", "softmax twice")
class SoftmaxTwice(Net):
    def forward(self, x):
        return F.log_softmax(5 * F.softmax(self.logits(x), 1), 1)


@cheat("head", "nearest of ten stored points: distances, not products")
class Nearest(Net):
    def logits(self, x):
        return -torch.cdist(self.features(x), self.head.weight, p=1.0)


@cheat("head", "nearest of 200 stored points with labels")
class Neighbour(Net):
    def __init__(self):
        super().__init__()
        self.points = nn.Parameter(random(200, 16, scale=1.0))

    def logits(self, x):
        distance = torch.cdist(self.features(x), self.points)
        return -distance.view(-1, 10, 20).amin(2)


@cheat("head", "kernel machine: exponentials of distances, summed by class")
class Kernel(Neighbour):
    def logits(self, x):
        distance = torch.cdist(self.features(x), self.points) ** 2
        return (-distance).exp().view(-1, 10, 20).sum(2)


@cheat("head", "sorted logits")
class Sorted(Net):
    def logits(self, x):
        return super().logits(x).sort(1).values


@cheat("head", "largest features of the map, by topk, averaged")
class TopMean(Gap):
    def pool(self, maps):
        return maps.flatten(2).topk(4).values.mean(2)


@cheat("head", "attention pooling: an average weighted by softmax of the map itself")
class AttentionPool(Gap):
    def pool(self, maps):
        flat = maps.flatten(2)
        return (flat.softmax(2) * flat).sum(2)


@cheat("head", "root of the mean square")
class RootMeanSquare(Gap):
    def pool(self, maps):
        return maps.square().mean((2, 3)).sqrt()


@cheat("head", "a linear head for most images and another function for some")
class SometimesLinear(Net):
    def logits(self, x):
        y = super().logits(x)
        return torch.where(y.amax(1, keepdim=True) > 0.5, y.abs(), y)


@cheat("head", "a linear head of weight 1e-6 beside the real one, a max-pool")
class FaintHead(Net):
    def __init__(self):
        super().__init__()
        self.last = nn.Conv2d(16, 10, 1)

    def logits(self, x):
        y = self.body(x)
        return 1e-6 * self.head(y.mean((2, 3))) + self.last(y).amax((2, 3))


@cheat("head", "rounded logits")
class Rounded(Net):
    def logits(self, x):
        return super().logits(x).mul(4).round()


@cheat("head", "last layer's weights are made from the image")
class HyperHead(Net):
    def __init__(self):
        super().__init__()
        self.make = nn.Linear(16, 160, bias=False)

    def logits(self, x):
        y = self.features(x)
        return torch.einsum("nc,nkc->nk", y, self.make(y).view(-1, 10, 16))


# Evaluation: outputs that depend on more than the image.


class Spoilt(Net):
    """`Net` whose logits in evaluation mode are changed by `spoil`."""

    def spoil(self, logits):
        raise NotImplementedError

    def logits(self, x):
        logits = super().logits(x)
        return logits if self.training else self.spoil(logits)


@cheat("evaluation", "noise")
class EvalNoise(Spoilt):
    def spoil(self, logits):
        return logits + torch.randn_like(logits)


@cheat("evaluation", "faint noise that decides ties")
class FaintNoise(Spoilt):
    def spoil(self, logits):
        return logits + 1e-7 * torch.rand_like(logits)


@cheat("evaluation", "noise with a seed set before it")
class SeededNoise(Spoilt):
    def spoil(self, logits):
        torch.manual_seed(0)
        return logits + 0.1 * torch.randn_like(logits)


@cheat("evaluation", "a random order of classes that is turned back")
class RandomOrder(Spoilt):
    def spoil(self, logits):
        order = torch.randperm(10)
        return logits[:, order][:, order.argsort()]


@cheat("evaluation", "dropout in evaluation")
class EvalDropout(Spoilt):
    def spoil(self, logits):
        return F.dropout(logits, 0.1, True)


@cheat("evaluation", "the image before in the batch")
class Roll(Spoilt):
    def spoil(self, logits):
        return logits + 0.5 * logits.roll(1, 0)


@cheat("evaluation", "the image before, by slices")
class Slices(Spoilt):
    def spoil(self, logits):
        return torch.cat([logits[:1], logits[1:] + 0.5 * logits[:-1]])


@cheat("evaluation", "the mean of the batch is taken away")
class BatchMean(Spoilt):
    def spoil(self, logits):
        return logits - logits.mean(0)


@cheat("evaluation", "logits balanced over the batch, as if each class were as frequent")
class Balanced(Spoilt):
    def spoil(self, logits):
        for _ in range(5):
            logits = logits.log_softmax(1).log_softmax(0)
        return logits


@cheat("evaluation", "batch norm without running statistics")
class Untracked(Net):
    def __init__(self):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(8, track_running_stats=False)


@cheat("evaluation", "batch norm that stays in training mode")
class NormStaysTraining(Net):
    def train(self, mode=True):
        super().train(mode)
        self.norm1.train()
        return self


@cheat("evaluation", "outputs sorted over the batch")
class SortedBatch(Spoilt):
    def spoil(self, logits):
        rank = logits.argsort(0).argsort(0).float()
        return logits + 0.01 * rank


@cheat("evaluation", "sums over all images before")
class CumulativeSum(Spoilt):
    def spoil(self, logits):
        return logits + 0.1 * logits.cumsum(0)


@cheat("evaluation", "attention between the images of the batch")
class BatchAttention(Spoilt):
    def spoil(self, logits):
        return (logits @ logits.mT).softmax(1) @ logits


@cheat("evaluation", "attention between images through a transposed layer")
class TransposedAttention(Net):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2)  # expects (positions, n, 16)

    def features(self, x):
        y = super().features(x).unsqueeze(1)
        return (y + self.attention(y, y, y, need_weights=False)[0]).squeeze(1)


@cheat("evaluation", "a GRU over the batch")
class BatchGru(Net):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(16, 16)

    def features(self, x):
        y = super().features(x)
        return y + self.rnn(y)[0]


@cheat("evaluation", "a convolution along the batch")
class BatchConv(Spoilt):
    def spoil(self, logits):
        return logits + F.avg_pool1d(logits.t()[None], 3, 1, 1)[0].t()


@cheat("evaluation", "each image's position in the batch: files sorted by label")
class Position(Spoilt):
    def spoil(self, logits):
        place = torch.arange(logits.shape[0])[:, None] % 10
        return logits + 0.5 * (place == torch.arange(10))


@cheat("evaluation", "the number of images in the batch")
class SizeOfBatch(Spoilt):
    def spoil(self, logits):
        return logits * logits.new_ones(logits.shape[0]).sum() / 100


@cheat("evaluation", "the batch seen as rows of one wide image")
class WideView(Spoilt):
    def spoil(self, logits):
        flat = logits.reshape(-1)
        return (flat + 0.1 * flat.roll(10)).view(-1, 10)


@cheat("evaluation", "a comparison with the largest logit of the batch")
class BatchMaximum(Spoilt):
    def spoil(self, logits):
        return logits / logits.abs().amax()


@cheat("evaluation", "images equal to others in the batch are told by unique")
class Unique(Spoilt):
    def spoil(self, logits):
        return logits + torch.unique(logits.argmax(1)).numel() * torch.eye(10)[0]


@cheat("evaluation", "state from the batch before, kept in a buffer")
class KeptState(Spoilt):
    def __init__(self):
        super().__init__()
        self.register_buffer("before", torch.zeros(10))

    def spoil(self, logits):
        out = logits - self.before
        self.before.lerp_(logits.mean(0).detach(), 0.5)
        return out


@cheat("evaluation", "a number that the network counts up in evaluation")
class CountedCalls(Spoilt):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def spoil(self, logits):
        self.calls += 1
        return logits * (1 + self.calls)


@cheat("evaluation", "statistics of the norm go on in evaluation")
class AdaptsInEvaluation(Net):
    def first(self, x):
        y = self.conv1(x)
        n = self.norm1
        with torch.no_grad():
            n.running_mean.lerp_(y.mean((0, 2, 3)), 0.1)
        return self.drop(F.relu(n(y)))


@cheat(None, "the time of day, which is a constant in a graph")
class TimeOfDay(Spoilt):
    def spoil(self, logits):
        return logits + torch.tensor(math.sin(time.time()))[None] * torch.eye(10)[3]


@cheat("evaluation", "uninitialised memory")
class Uninitialised(Spoilt):
    def spoil(self, logits):
        return logits + 1e-3 * torch.empty_like(logits).nan_to_num().clamp(-1, 1)


# Mistakes that students make.


@cheat("evaluation", "log_softmax over the batch: dim=0")
class SoftmaxOverBatch(Net):
    def forward(self, x):
        return F.log_softmax(self.logits(x), 0)


@cheat("evaluation", "F.dropout without training=self.training")
class AlwaysDropout(Net):
    def features(self, x):
        return F.dropout(super().features(x))


@cheat("evaluation", "nn.Dropout made in forward")
class DropoutMadeInForward(Net):
    def features(self, x):
        return nn.Dropout(0.1)(super().features(x))


@cheat("evaluation", "nn.BatchNorm2d made in forward")
class NormMadeInForward(Net):
    def first(self, x):
        return self.drop(F.relu(nn.BatchNorm2d(8)(self.conv1(x))))


@cheat("evaluation", "F.batch_norm(training=True) always")
class AlwaysNorm(Net):
    def first(self, x):
        n = self.norm1
        y = F.batch_norm(self.conv1(x), n.running_mean, n.running_var, n.weight, n.bias, True)
        return self.drop(F.relu(y))


@cheat("evaluation", "images standardised by mean and deviation of the batch")
class BatchStandardised(Net):
    def forward(self, x):
        return super().forward((x - x.mean()) / x.std())


@cheat("evaluation", "images divided by the brightest pixel of the batch")
class BatchBrightest(Net):
    def forward(self, x):
        return super().forward(x / x.max())


@cheat("evaluation", "reshape where a transposition is meant")
class WrongReshape(Net):
    def features(self, x):
        y = super().features(x)
        return y.t().reshape(-1, 16)


@cheat("evaluation", "GRU whose batch_first was forgotten: time runs along the batch")
class ForgottenBatchFirst(Net):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(28, 16)

    def features(self, x):
        return super().features(x) + self.rnn(x.squeeze(1))[0][:, -1]


@cheat("evaluation", "fractional max-pool, which draws its windows in evaluation too")
class FractionalPool(Net):
    def first(self, x):
        return F.interpolate(F.fractional_max_pool2d(super().first(x), 2, (6, 6)), size=13)


@cheat("evaluation", "Gumbel noise before softmax")
class Gumbel(Net):
    def logits(self, x):
        y = super().logits(x)
        return F.gumbel_softmax(y, hard=False, dim=1).log()


# Numbers without effect.


@cheat(None, "1,001,000 declared parameters that are never read")
class Unread(Net):
    def __init__(self):
        super().__init__()
        self.unread = nn.Linear(1000, 1000)


@cheat(None, "an unread buffer of 1,000,000 numbers")
class UnreadBuffer(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("unread", torch.zeros(1_000_000))


@cheat(None, "a large branch times zero: its numbers do nothing, but the graph reads them")
class TimesZero(Large):
    def extra(self, x):
        return super().extra(x) * 0


# Constructors.


@cheat("refused", "its constructor raises")
class Raises(Net):
    def __init__(self):
        raise OSError("no such disk")


@cheat("refused", "no torch.nn.Module")
class NotAModule:
    pass


@cheat("refused", "its forward takes two arguments")
class TwoInputs(Net):
    def forward(self, x, y):
        return super().forward(x + y)


@cheat("refused", "nine outputs")
class NineOutputs(Net):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(16, 9)


@cheat("refused", "a tuple of outputs")
class TupleOutput(Net):
    def forward(self, x):
        return super().forward(x), x.mean()


@cheat("refused", "batches above 100 images raise")
class SmallBatches(Net):
    def forward(self, x):
        if len(x) > 100:
            raise RuntimeError("batch too large")
        return super().forward(x)


@cheat("refused", "one image at a time")
class OneImage(Net):
    def forward(self, x):
        assert x.shape[0] == 1
        return super().forward(x)


@cheat("refused", "outputs that are not numbers")
class NotANumber(Spoilt):
    def spoil(self, logits):
        return logits * float("nan")


@cheat("refused", "integers as outputs")
class IntegerOutput(Net):
    def forward(self, x):
        return super().forward(x).argmax(1)
