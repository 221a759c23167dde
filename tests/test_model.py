import pytest
import torch
from torch import nn

from featherweight.model import BaselineNet, Feather, build, check_model, count_parameters
from featherweight.recipe import find_recipe


def test_the_assignments_network_layer_by_layer():
    x, table = torch.zeros(2, 1, 28, 28), []
    for layer in BaselineNet().eval().layers:
        x = layer(x)
        table.append((type(layer).__name__, count_parameters(layer), tuple(x.shape[1:])))
    assert table == [
        ("Conv2d", 160, (16, 26, 26)), ("ReLU", 0, (16, 26, 26)), ("BatchNorm2d", 32, (16, 26, 26)),
        ("Dropout", 0, (16, 26, 26)),
        ("Conv2d", 4640, (32, 24, 24)), ("ReLU", 0, (32, 24, 24)), ("BatchNorm2d", 64, (32, 24, 24)),
        ("MaxPool2d", 0, (32, 12, 12)), ("Dropout", 0, (32, 12, 12)),
        ("Conv2d", 9248, (32, 10, 10)), ("ReLU", 0, (32, 10, 10)), ("BatchNorm2d", 64, (32, 10, 10)),
        ("MaxPool2d", 0, (32, 5, 5)), ("Dropout", 0, (32, 5, 5)),
        ("Conv2d", 528, (16, 5, 5)), ("Flatten", 0, (400,)), ("Linear", 4010, (10,)), ("LogSoftmax", 0, (10,))]
    assert sum(row[1] for row in table) == 18_746
    assert [layer.p for layer in BaselineNet().layers if isinstance(layer, nn.Dropout)] == [0.01, 0.01, 0.0]


def test_the_default_network():
    recipe = find_recipe("feather-20k")
    model = build(recipe.model, recipe.model_args, 10)
    assert count_parameters(model) == 19_210
    assert model.features(torch.zeros(1, 4, 14, 14)).shape == (1, 24, 4, 4)


@pytest.mark.parametrize("size", [(28, 28), (27, 31), (64, 64)])
def test_feather_takes_other_sides_and_classes(size):
    assert Feather([6, 7], num_classes=26)(torch.zeros(3, 1, *size)).shape == (3, 26)


NETS = """
from torch import nn
class Plain(nn.Sequential):
    def __init__(self): super().__init__(nn.Flatten(), nn.Linear(784, 10))
class Classes(nn.Sequential):
    def __init__(self, num_classes): super().__init__(nn.Flatten(), nn.Linear(784, num_classes))
class Wants(nn.Module):
    def __init__(self, width): super().__init__()
class Raises(nn.Module):
    def __init__(self): raise RuntimeError("no luck")
def function(): pass
"""


def test_a_strangers_network_is_found_in_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "nets_of_a_stranger.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    assert build("nets_of_a_stranger:Plain", {}, 10)[1].out_features == 10
    assert build("nets_of_a_stranger:Classes", {}, 26)[1].out_features == 26
    for path, message in (("Plain", "MODULE:CLASS"), ("nets_of_a_stranger:Nope", "Nope"),
                          ("no_such_module:Net", "no_such_module"), ("nets_of_a_stranger:function", "Module class"),
                          ("nets_of_a_stranger:Wants", "width"), ("nets_of_a_stranger:Raises", "no luck")):
        with pytest.raises(ValueError, match=message):
            build(path, {}, 10)


class Answers(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer(x.flatten(1)[:, :10])


@pytest.mark.parametrize(("answer", "message"), [
    (lambda x: x[:, :7], r"\(4, 7\)"), (lambda x: x[0], r"\(10,\)"), (lambda x: [x], "list"),
    (lambda x: x / 0, "NaN"), (lambda x: x.softmax(1), "probabilities"), (lambda x: x @ x, "fails on images"),
])
def test_answers_that_cannot_be_used_are_refused(answer, message):
    with pytest.raises(ValueError, match=message):
        check_model(Answers(answer), torch.rand(4, 1, 28, 28) + 1, 10)


def test_a_check_moves_no_statistics():
    model = BaselineNet()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check_model(model, torch.rand(4, 1, 28, 28), 10)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
