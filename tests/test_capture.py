"""What becomes a graph and what does not, and that the module stays as it was."""

import builtins
import copy
import logging
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import MNIST_RECIPES
from networks.base import Net
from networks.honest import HONEST
from torch import nn

from featherweight import capture as capturing
from featherweight.audit import audit_model
from featherweight.build import build, count_parameters
from featherweight.capture import capture
from featherweight.contract import load_contract
from featherweight.errors import InputError, NoGraphError
from featherweight.passes import Pass, audit_passes

# PyTorch's own warnings: scripting, sparse tensors.
pytestmark = pytest.mark.filterwarnings("ignore")
BOTH = (Pass(True), Pass(False))
SMALLER = Pass(True, (1, 22, 22))


def images(n=8):
    return torch.randn(n, 1, 28, 28, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("recipe", MNIST_RECIPES, ids=lambda recipe: recipe.name)
def test_a_graph_has_the_counts_of_its_module(recipe, split):
    module = build(recipe.model, recipe.model_args, 10)
    exported = capture(module, audit_passes((1, 28, 28)))
    n_params = count_parameters(module)
    assert exported.declared == count_parameters(exported) == n_params
    read = {
        leaf["tensor"]
        for graph in exported.graphs
        for operation in graph.operations
        for leaf in operation.args
        if isinstance(leaf, dict) and "tensor" in leaf
    }
    parameters = dict(exported.named_parameters())
    assert sum(parameters[name].numel() for name in read & parameters.keys()) == n_params
    contract = load_contract("era-v3-s6")
    by_graph = audit_model(module, split, contract)
    watched = audit_model(module, split, contract, everything=False, evidence="watched")
    assert by_graph.n_params == watched.n_params == n_params
    assert by_graph.method == "graph"
    assert watched.method == "watched"
    assert by_graph.passed
    assert [c.found for c in by_graph.clauses] == [c.found for c in watched.clauses]


# --- What has no graph ---


class Numpy(Net):
    def forward(self, x):
        return super().forward(torch.from_numpy(np.tanh(x.numpy())))


class Item(Net):
    def forward(self, x):
        return super().forward(x if x.mean().item() > 0 else -x)


class Branch(Net):
    def forward(self, x):
        return super().forward(x if x.mean() > 0 else -x)


class FixedNumber(Net):
    def forward(self, x):
        return super().forward(x.view(8, 1, 28, 28))


class ForEach(Net):
    def forward(self, x):
        return torch.cat([super(ForEach, self).forward(each[None]) for each in x])


@torch.library.custom_op("featherweight_tests::double", mutates_args=())
def double(x: torch.Tensor) -> torch.Tensor:
    return x * 2


@double.register_fake
def _(x):
    return torch.empty_like(x)


class Custom(Net):
    def forward(self, x):
        return super().forward(double(x))


class Cumulative(Net):
    def __init__(self):
        super().__init__()
        self.norm1.momentum = None


class Scripted(Net):
    def __init__(self):
        super().__init__()
        self.norm1 = torch.jit.script(self.norm1)


class Generator(Net):
    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(3)

    def forward(self, x):
        return super().forward(x + torch.rand(1, generator=self.generator))


class SparseConstant(Net):
    def __init__(self):
        super().__init__()
        self.table = torch.eye(784).to_sparse()

    def forward(self, x):
        return super().forward(torch.sparse.mm(self.table, x.flatten(1).t()).t().view_as(x))


class Two(Net):
    def forward(self, x):
        return super().forward(x), x


class Raises(Net):
    def forward(self, x):
        raise OSError("no such disk")


class Exits(Net):
    def forward(self, x):
        raise SystemExit(3)


class Long(Net):
    def forward(self, x):
        for i in range(101):
            x = x + i
        return super().forward(x)


@pytest.mark.parametrize(
    ("kind", "line", "words", "hint"),
    [
        (Numpy, "np.tanh(x.numpy())", "", "instead of NumPy's"),
        (Item, "x.mean().item() > 0", "", "torch.where"),
        (Branch, "x if x.mean() > 0 else -x", "values of a tensor", "torch.where"),
        (FixedNumber, None, "a certain number of images only", "x.shape[0]"),
        (ForEach, None, "a certain number of images only", "no loop over images"),
        (Custom, None, "got the operation featherweight_tests", "PyTorch's functions of tensors"),
        (Cumulative, "", "values of a tensor", "give BatchNorm a momentum"),
        (Scripted, "", "is TorchScript", "without torch.jit"),
        (Generator, None, "draws from a torch.Generator of its own", "leave the generator out"),
        (SparseConstant, None, "parse", ""),
        (Two, None, "returns 2 values, expected one tensor", ""),
        (Raises, 'raise OSError("no such disk")', "OSError: no such disk", ""),
        (Exits, "raise SystemExit(3)", "it ends the process, exit(3)", ""),
    ],
)
def test_what_has_no_graph_says_its_line_and_what_to_write(kind, line, words, hint):
    with pytest.raises(InputError) as caught:
        capture(kind(), BOTH)
    message, advice = caught.value.message, caught.value.hint
    assert message.startswith(f"model test_capture.py:{kind.__name__}: ")
    assert words in message
    assert message.isprintable()
    assert hint in advice
    assert advice.endswith("judge it by watching it, with --evidence watched")
    if line is not None:
        found = re.search(
            r" has no graph in (training|evaluation) mode at line (\d+), `(.*?)`: ", message
        )
        assert found, message
        assert line in found[3]
        if line:
            written = Path(__file__).read_text(encoding="utf-8").splitlines()
            assert written[int(found[2]) - 1].strip() == found[3]


def test_what_has_no_graph_for_smaller_images_says_their_shape():
    with pytest.raises(NoGraphError, match=r"for images \(n, 1, 22, 22\)"):
        capture(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), [Pass(False), SMALLER])


class Sparse(Net):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(28, 28, sparse=True)

    def forward(self, x):
        return super().forward(x + self.table(x[:, 0, 0].long().clamp(0, 27))[:, None])


def test_a_sparse_gradient_is_compared_too():
    assert capture(Sparse(), BOTH).faithful


def test_a_loop_that_writes_too_many_operations_is_refused(monkeypatch):
    monkeypatch.setattr(capturing, "MAX_OPERATIONS", 100)
    with pytest.raises(InputError, match=r"more than 100 operations .*loops over numbers"):
        capture(Long(), [Pass(False)])


# --- What has one ---


class Length(Net):
    def forward(self, x):
        return super().forward(x).reshape(len(x), -1) + len(self.conv1.weight)


def test_the_length_of_a_tensor_is_the_number_of_images():
    torch.manual_seed(0)
    module = Length()
    exported = capture(module, BOTH).eval()
    assert all(graph.n_images is None for graph in exported.graphs)
    for n in (1, 2, 5, 300):
        torch.testing.assert_close(exported(images(n)), module.eval()(images(n)))


class Quarters(Net):
    """Takes numbers of images that 4 divides."""

    def features(self, x):
        parts = x.view(4, x.shape[0] // 4, *x.shape[1:])
        return super().features(torch.cat([parts[i] for i in range(4)]))


class SixtyFour(Net):
    def forward(self, x):
        x = super().forward(x)
        return x.view(64, 10) if self.training else x


def test_a_certain_number_of_images_has_a_graph_of_its_own():
    torch.manual_seed(0)
    module = SixtyFour()
    exported = capture(module, [Pass(True, sizes=(64,)), Pass(False)])
    assert [graph.n_images for graph in exported.graphs] == [64, None]
    torch.manual_seed(0)
    expected = copy.deepcopy(module).train()(images(64))
    torch.manual_seed(0)
    assert torch.equal(exported.train()(images(64)), expected)
    with pytest.raises(
        InputError, match=r"got images \(8, 1, 28, 28\).*expected \(64, 1, 28, 28\)"
    ):
        exported(images(8))
    assert exported.eval()(images(8)).shape == (8, 10)
    with pytest.raises(InputError, match=r"shape .* is invalid for input|certain number"):
        capture(module, BOTH)
    with pytest.raises(InputError, match="SixtyFour"):
        capture(module, [Pass(True, sizes=(64, 32)), Pass(False)])


def test_ghost_batches_have_a_graph_for_each_size():
    torch.manual_seed(0)
    module = HONEST["GhostNorm"].network()
    exported = capture(module, [Pass(True, sizes=(32, 64)), Pass(False)])
    for n in (32, 64):
        torch.manual_seed(0)
        expected = copy.deepcopy(module).train()(images(n))
        torch.manual_seed(0)
        torch.testing.assert_close(copy.deepcopy(exported).train()(images(n)), expected)


def test_other_sizes_of_images_have_graphs_of_their_own():
    passes = [Pass(False), Pass(True), Pass(True, (1, 20, 20))]
    exported = capture(Net(), passes).train()
    assert [graph.shape for graph in exported.graphs] == [each.shape for each in passes]
    assert exported(torch.zeros(4, 1, 20, 20)).shape == (4, 10)
    with pytest.raises(InputError, match="evaluation mode"):
        exported.eval()(torch.zeros(4, 1, 20, 20))


class _Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Straight(Net):
    def features(self, x):
        return _Straight.apply(super().features(x))


class Detached(Net):
    def features(self, x):
        return super().features(x).detach()


class Attribute(Net):
    """Counts its steps in an attribute, which a graph can't do."""

    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.steps = self.steps + 1
        return super().forward(x)


def test_a_gradient_of_its_own_is_not_in_the_graph():
    assert not capture(Straight(), BOTH).faithful
    assert capture(Detached(), BOTH).faithful
    assert capture(Net(), BOTH).faithful
    # Where no training pass is kept, nothing is trained.
    assert capture(Straight(), [Pass(False)]).faithful


def test_a_buffer_that_is_assigned_is_counted_on():
    exported = capture(Attribute(), BOTH).train()
    if exported.faithful:
        for _ in range(3):
            exported(images())
        assert exported.steps == 3
    exported.eval()(images())
    assert exported.steps in (0, 3)


# --- The module stays as it was ---


class Restless(Net):
    """Changes itself, its weights and attributes, in each pass."""

    def __init__(self):
        super().__init__()
        self.calls, self.seen = 0, []

    def forward(self, x):
        self.calls += 1
        self.last = "kept"
        with torch.no_grad():
            self.head.bias.add_(1)
        return super().forward(x)


class Fails(Restless):
    def forward(self, x):
        super().forward(x)
        return super().forward(x if x.mean() > 0 else -x)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", [Restless, Fails])
def test_a_capture_changes_nothing(kind, training, capfd):
    torch.manual_seed(0)
    module = kind().train(training)
    module.drop.eval()  # one layer in another mode
    modes = [each.training for each in module.modules()]
    attributes = module.calls, list(vars(module)), list(module.seen)
    state = {name: value.clone() for name, value in module.state_dict().items()}
    identities = {name: id(value) for name, value in module.named_parameters()}
    logger = logging.getLogger("torch")
    level, length, assign = logger.level, builtins.len, nn.Module.__setattr__
    torch.manual_seed(5)
    draws = torch.get_rng_state()
    grad = torch.is_grad_enabled()
    if kind is Fails:
        with pytest.raises(InputError, match="has no graph"):
            capture(module, BOTH)
    else:
        capture(module, BOTH)
    assert builtins.len is length
    assert nn.Module.__setattr__ is assign
    assert logger.level == level
    assert torch.equal(torch.get_rng_state(), draws)
    assert torch.is_grad_enabled() == grad
    assert [each.training for each in module.modules()] == modes
    assert (module.calls, list(vars(module)), list(module.seen)) == attributes
    assert {name: id(value) for name, value in module.named_parameters()} == identities
    assert module.state_dict().keys() == state.keys()
    for name, value in module.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert all(parameter.grad is None for parameter in module.parameters())
    assert capfd.readouterr() == ("", "")


def test_the_graph_is_in_the_mode_of_the_module():
    assert capture(Net().train(), BOTH).training
    assert not capture(Net().eval(), BOTH).training


class DrawsInNumpy(Net):
    def forward(self, x):
        return super().forward(x) * float(np.random.rand())


def test_random_numbers_of_numpy_do_not_become_a_constant():
    with pytest.raises(NoGraphError, match="other outputs for the same images in evaluation mode"):
        capture(DrawsInNumpy(), BOTH)


def test_a_traced_convolution_is_an_ordinary_one():
    network = nn.Sequential(
        torch.jit.trace(nn.Conv2d(1, 10, 28), torch.zeros(2, 1, 28, 28)), nn.Flatten()
    )
    (graph,) = capture(network, [Pass(False)]).graphs
    assert graph.operations[0].target == "aten.convolution.default"
