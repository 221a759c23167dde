"""Follow a network's forward passes once, and keep them as graphs.

    network = capture(Net(), [Pass(training=True), Pass(training=False)])     # an Exported

`torch.export` runs the network's Python code on tensors without values. A network whose code needs
the values, or that takes one number of images only, has no graph: the error names its line.
"""

import builtins
import contextlib
import io
import logging
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind

from .build import count_parameters, forward, unchanged
from .errors import InputError, NoGraphError
from .exported import (
    CONSTANT,
    FUNCTIONS,
    MAX_OPERATIONS,
    NAMED,
    Exported,
    Graph,
    Operation,
    find_function,
    register,
)
from .locate import describe, reason
from .passes import Pass

N_EXAMPLES = 8  # images of the forward pass that is followed
# Smallest number of images that a graph for any number is tried with, and how many are followed.
# Some functions of PyTorch take another way for a few images.
FREE = ((2, N_EXAMPLES), (32, 64))
MAX_IMAGES = 2**20  # of a batch, as far as a graph is concerned
SCALAR_NAMES = {function: name for name, function in FUNCTIONS.items()}
# Operations that only check sizes or dtypes.
CHECKS = ("aten._assert", "aten.sym_constrain")
# Whose frames of a traceback are not the network's code.
LIBRARIES = (
    str(Path(torch.__file__).parent),
    str(Path(__file__).parent),
    sysconfig.get_path("stdlib"),
)
WATCHING = "watching it, with --evidence watched"
# What to write instead, by what the error says.
HINTS = (
    (("torchscript",), "use the module itself, without torch.jit"),
    (
        ("values of a tensor", "item()", ".item", "tolist", "_local_scalar_dense", "bool("),
        "write torch.where and other functions of tensors; give BatchNorm a momentum",
    ),
    (("numpy",), "write PyTorch's functions of tensors instead of NumPy's"),
    (
        ("number of images",),
        "write x.shape[0] or flatten(1), and no loop over images or `if` on their number",
    ),
)


def capture(model: nn.Module, passes: Iterable[Pass], title: str | None = None) -> Exported:
    """Return a network as graphs. It shares its tensors with the module, which stays unchanged.

    Args:
        model: The network on the CPU, with its lazy layers initialised.
        passes: The passes to keep.
        title: What messages call the network. Default: its file and class.

    Raises NoGraphError, which names a line of its code, if `torch.export` can't follow it.
    """
    try:
        return _capture(model, list(passes), title or describe(model))
    except InputError as error:
        watch = f"judge it by {WATCHING}"
        raise NoGraphError(
            error.message, hint="; or ".join(filter(None, (error.hint, watch)))
        ) from error


def _capture(model: nn.Module, passes: Sequence[Pass], title: str) -> Exported:
    mode = model.training
    constants: list[Tensor] = []
    graphs = []
    with unchanged(model), torch.random.fork_rng(devices=[]), _followable():
        for each in passes:
            # As PyTorch's users switch: a network may have an `eval` of its own.
            _ = model.train() if each.training else model.eval()
            try:
                programs = _follow(model, each, title)
            except InputError as error:
                if each.shape == passes[0].shape:
                    raise
                shape = ", ".join(map(str, each.shape))
                raise InputError(
                    f"{error.message}, for images (n, {shape})", hint=error.hint
                ) from error
            if not each.training:
                _check_steady(model, each, title)
            graphs += [_write(program, each, n, constants, title) for n, program in programs]
    network = Exported(title, graphs, count_parameters(model))
    for name, tensor in (
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ):
        parent, _, leaf = name.rpartition(".")
        saved = leaf not in model.get_submodule(parent)._non_persistent_buffers_set
        register(network, name, tensor, saved)
    for i, constant in enumerate(constants):
        register(network, _constant_name(i), constant, saved=False)
    with torch.compiler.set_stance("force_eager"):
        network.faithful = all(
            _same_gradients(model, network, each) for each in passes if each.training
        )
    return network.train(mode)


@contextlib.contextmanager
def _followable() -> Iterator[None]:
    """Let more of Python be followed inside the context.

    `len(x)` is the number of images and not a number of this pass, a tensor that is assigned to a
    buffer is copied into it, and nothing is compiled. What PyTorch logs about code that can't be
    followed is silenced: the exception says it."""
    length, logger, assign = builtins.len, logging.getLogger("torch"), nn.Module.__setattr__

    def sizes(value: Any) -> Any:
        return value.shape[0] if isinstance(value, Tensor) and value.ndim else length(value)

    def copy_or_assign(module: nn.Module, name: str, value: Any) -> None:
        buffer = vars(module).get("_buffers", {}).get(name)
        if isinstance(buffer, Tensor) and isinstance(value, Tensor) and buffer is not value:
            with torch.no_grad():
                buffer.copy_(value)
        else:
            assign(module, name, value)

    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    builtins.len = sizes
    nn.Module.__setattr__ = copy_or_assign  # type: ignore[method-assign, assignment]
    try:
        with torch.compiler.set_stance("force_eager"), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        builtins.len = length
        nn.Module.__setattr__ = assign  # type: ignore[method-assign]
        logger.setLevel(level)


def _check_steady(model: nn.Module, each: Pass, title: str) -> None:
    """Raise InputError if two passes in evaluation mode differ though PyTorch's seed is the same.

    The graph would have a number that NumPy, Python or a clock gave, as if it were a constant."""
    n_images = each.sizes[0] if each.sizes else N_EXAMPLES
    images = torch.randn(n_images, *each.shape, generator=torch.Generator().manual_seed(0))
    outputs = []
    for _ in range(2):
        with unchanged(model), torch.no_grad(), contextlib.suppress(InputError):
            torch.manual_seed(0)
            model.eval()
            outputs.append(forward(model, images.clone()))
    if (
        len(outputs) == 2
        and all(isinstance(out, Tensor) for out in outputs)
        and not _close(*outputs)
    ):
        raise InputError(
            f"model {title}: gives other outputs for the same images in evaluation mode, by random "
            "numbers or a clock outside of PyTorch",
            hint="draw random numbers in training mode alone: if self.training",
        )


def _same_gradients(model: nn.Module, network: Exported, each: Pass) -> bool:
    """Return whether module and graph agree after a pass in training mode.

    Compared are the output, the gradients and the buffers."""
    n_images = each.sizes[0] if each.sizes else N_EXAMPLES
    images = torch.randn(n_images, *each.shape, generator=torch.Generator().manual_seed(0))
    found = []
    for one in (model, network):
        with unchanged(one), torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(0)
            one.train()
            one.zero_grad()
            try:
                out = forward(one, images.clone())
                weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
                if out.requires_grad:
                    (out * weights).sum().backward()
            except Exception:  # one that can't be trained has no gradients to compare
                return False
            after: dict[str, Tensor | None] = {"": out.detach()}
            after |= {name: value.grad for name, value in one.named_parameters()}
            after |= {name: value.clone() for name, value in one.named_buffers()}
            found.append(after)
    after, others = found
    return all(_close(value, others[name]) for name, value in after.items())


def _close(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    if one.layout != torch.strided:  # a gradient of a sparse embedding
        one, other = one.to_dense(), other.to_dense()
    return torch.allclose(one, other, rtol=1e-3, atol=1e-5, equal_nan=True)


def _constant_name(i: int) -> str:
    return f"{CONSTANT}{i}"


def _follow(model: nn.Module, each: Pass, title: str) -> list[tuple[int | None, ExportedProgram]]:
    """Return the exported pass for any number of images (None), or for each of its sizes."""
    failed: BaseException | None = None
    for least, n_examples in FREE:
        try:
            return [(None, _export(model, each, n_examples, least))]
        except (Exception, SystemExit) as error:  # the network's code may raise anything
            failed = failed or error
            if "Constraints violated" not in str(error):
                break
    with contextlib.suppress(Exception, SystemExit):  # the first failure says more
        if each.sizes:
            return [(n, _export(model, each, n)) for n in each.sizes]
    assert failed is not None
    scripted = next((name for name, part in model.named_modules() if is_scripted(part)), None)
    raise _explain(failed, title, each, scripted) from failed


def _export(
    model: nn.Module, each: Pass, n_images: int, least: int | None = None
) -> ExportedProgram:
    """Export a pass over some images, which with `least` stand for any number from that on."""
    from torch._dynamo.exc import UserError  # which takes a second to load

    images = torch.zeros(n_images, *each.shape)
    sizes = None if least is None else {"images": {0: Dim("n", min=least, max=MAX_IMAGES)}}
    with _note_guards() as lines:
        try:
            return torch.export.export(_Alone(model), (images,), dynamic_shapes=sizes, strict=False)
        except UserError as error:
            if lines:
                error.add_note(lines[-1])  # the last line that asked for something of the number
            raise


@contextlib.contextmanager
def _note_guards() -> Iterator[list[str]]:
    """Give a list that gets a line of the network's code whenever it depends on a size."""
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    lines: list[str] = []
    log = ShapeEnv._log_guard

    def note(*args: Any, **kwargs: Any) -> None:
        if line := _own_line(traceback.extract_stack()):
            lines.append(line)
        log(*args, **kwargs)

    ShapeEnv._log_guard = note  # type: ignore[method-assign]
    try:
        yield lines
    finally:
        ShapeEnv._log_guard = log  # type: ignore[method-assign]


def _own_line(frames: traceback.StackSummary) -> str:
    """Return the last line of the network's code in a stack, as text; empty if there is none."""
    for frame in reversed(frames):
        if not frame.filename.startswith((*LIBRARIES, "<")):
            return f"line {frame.lineno}, `{frame.line}`"
    return ""


class _Alone(nn.Module):
    """A network that takes images alone, whatever else its own `forward` could take."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Any:
        return self.network(images)


def is_scripted(module: nn.Module) -> bool:
    """Return whether a module is TorchScript, which can't be followed and takes no hooks."""
    return isinstance(module, torch.jit.ScriptModule)


def _explain(
    error: BaseException, title: str, each: Pass, scripted: str | None = None
) -> InputError:
    """Return what is wrong with a network that can't be exported.

    `scripted` is the name of a module of it that is TorchScript."""
    if isinstance(error, InputError):
        return error
    line, why = _own_line(traceback.extract_tb(error.__traceback__)), reason(error)
    if "Constraints violated" in str(error):
        line, why = (
            getattr(error, "__notes__", [""])[-1],
            "it takes a certain number of images only",
        )
    if type(error).__name__.startswith("GuardOnDataDependent"):
        why = "it needs the values of a tensor as numbers"
    if scripted is not None:
        why = f"its module {scripted or 'itself'} is TorchScript (torch.jit)"
    mode = "training" if each.training else "evaluation"
    where = f" at {line}" if line else ""
    hint = next(
        (hint for words, hint in HINTS if any(word in why.lower() + where for word in words)),
        "write it with PyTorch's functions of tensors",
    )
    return InputError(f"model {title}: has no graph in {mode} mode{where}: {why}", hint=hint)


def _write(
    program: ExportedProgram,
    each: Pass,
    n_images: int | None,
    constants: list[Tensor],
    title: str,
) -> Graph:
    """Return an exported pass as a graph, and add its constants to those of the others."""
    arguments: list[Any] = []
    for spec in program.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            arguments.append({"images": True})
        elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            arguments.append({"tensor": str(spec.target).removeprefix("network.")})
        else:
            constant = program.constants[spec.target or ""]
            arguments.append(_constant(constant, constants, title))
    writer = _Writer(title, constants)
    outputs = writer.write(program.graph_module, arguments)
    if len(outputs) != 1 or not isinstance(outputs[0], dict):
        raise InputError(
            f"model {title}: returns {len(outputs)} values, expected one tensor (n, classes)"
        )
    operations = tuple(writer.operations)
    return Graph(each.training, each.shape, n_images, operations, outputs[0])


def _constant(value: object, constants: list[Tensor], title: str) -> dict[str, Any]:
    """Return the argument that stands for a constant, which is kept if it is a new one."""
    if isinstance(value, torch.Generator):
        raise InputError(
            f"model {title}: draws from a torch.Generator of its own, expected PyTorch's own draws",
            hint="leave the generator out: a training seeds PyTorch's own",
        )
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
        kind = value.layout if isinstance(value, Tensor) else type(value).__name__
        raise InputError(
            f"model {title}: uses a constant of kind {kind}, expected dense tensors",
            hint="write it with dense tensors",
        )
    for i, known in enumerate(constants):
        # A tensor of numbers in the code is a new one in each pass.
        same = known.shape == value.shape and known.dtype == value.dtype
        if same and torch.equal(known, value):
            return {"tensor": _constant_name(i)}
    constants.append(value.detach())
    return {"tensor": _constant_name(len(constants) - 1)}


class _Writer:
    """Turns the nodes of `torch.fx` into operations."""

    def __init__(self, title: str, constants: list[Tensor]) -> None:
        self.title, self.constants = title, constants
        self.operations: list[Operation] = []

    def write(self, module: torch.fx.GraphModule, arguments: Sequence[Any]) -> list[Any]:
        """Add the operations of a module, given what stands for its inputs; return its outputs."""
        values: dict[torch.fx.Node, Any] = {}
        inputs = iter(arguments)

        def argument(value: Any) -> Any:
            if isinstance(value, torch.fx.Node):
                return values[value]
            if isinstance(value, (list, tuple)):
                return [argument(each) for each in value]
            if isinstance(value, torch.device):
                return {"device": True}
            if isinstance(value, complex):
                return {"complex": [value.real, value.imag]}
            for kind, found in NAMED.items():
                if isinstance(value, found):
                    return {kind: str(value).removeprefix("torch.")}
            if value is None or isinstance(value, (bool, int, float, str)):
                return value
            raise InputError(
                f"model {self.title}: has a {type(value).__name__} as an argument of an "
                "operation, expected tensors and numbers"
            )

        for node in module.graph.nodes:
            if node.op == "placeholder":
                values[node] = next(inputs)
            elif node.op == "get_attr":
                found = module
                for part in node.target.split("."):
                    found = getattr(found, part)
                values[node] = (
                    found
                    if isinstance(found, torch.fx.GraphModule)
                    else _constant(found, self.constants, self.title)
                )
            elif node.op == "call_function":
                values[node] = self._call(
                    node.target,
                    [argument(each) for each in node.args],
                    {name: argument(each) for name, each in node.kwargs.items()},
                )
            else:
                outputs = argument(node.args[0])
        return list(outputs)

    def _call(self, target: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Add a node's operations, and return the argument that stands for its result."""
        name = SCALAR_NAMES.get(target) or str(target)
        if isinstance(target, FunctionType):  # of torch.vmap, for example
            name = SCALAR_NAMES.get(target) or f"{target.__module__}.{target.__name__}"
        if name.startswith(CHECKS):
            return None
        if name == "aten._convolution.default" and not kwargs:
            # torch.jit.trace's convolution, with four settings of cuDNN, which ONNX does not have.
            name, args = "aten.convolution.default", args[:9]
        if name == "operator.getitem" and isinstance(args[0], list):
            return args[0][args[1]]
        if name == "wrap_with_set_grad_enabled":
            return self._inside("grad", args[:1], args[1], args[2:])
        if name == "wrap_with_autocast":
            return self._inside("autocast", args[:4], args[4], args[5:])
        if name == "tag_activation_checkpoint":
            return self.write(args[0], args[1:])
        if len(self.operations) >= MAX_OPERATIONS:
            raise InputError(
                f"model {self.title}: has more than {MAX_OPERATIONS:,} operations in a forward "
                "pass, expected fewer",
                hint="write loops over numbers as operations on tensors",
            )
        try:
            find_function(name)
        except InputError as error:
            raise InputError(f"model {self.title}: {error.message}", hint=error.hint) from error
        self.operations.append(Operation(name, args, kwargs))
        return {"value": len(self.operations) - 1}

    def _inside(
        self, context: str, options: list[Any], module: torch.fx.GraphModule, args: list[Any]
    ) -> list[Any]:
        """Add the operations of a module that runs inside a context."""
        before = self._call(FUNCTIONS[f"enter_{context}"], options, {})
        outputs = self.write(module, args)
        self._call(FUNCTIONS[f"exit_{context}"], [before], {})
        return outputs
