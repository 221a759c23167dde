"""Weights from other trainings: read without running code, loaded, or refused in one line."""

import warnings
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from featherweight.errors import InputError
from featherweight.weights import load_weights, read_weights, tensors


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
        self.head = nn.Linear(3, 2)


class Extra(Net):
    def get_extra_state(self):
        return {"version": 1}

    def set_extra_state(self, state):
        assert state == {"version": 1}


class Tied(Net):
    def __init__(self):
        super().__init__()
        self.again = self.head


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def prefixed(state, prefix):
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model_state_dict": state, "optimizer": {"state": {}, "lr": 0.1}},
        lambda state: {"model": state, "accuracy": 0.99},
        lambda state: prefixed(state, "module."),
        lambda state: prefixed(state, "_orig_mod."),
        lambda state: {"model": prefixed(state, "module._orig_mod.")},
        lambda state: prefixed(state, "_orig_mod.module."),
        lambda state: {name: value for name, value in state.items() if "num_batches" not in name},
        lambda state: {name: value.double() for name, value in state.items()},
    ],
)
def test_a_state_dict_however_it_was_saved(wrap, tmp_path):
    torch.manual_seed(0)
    trained, model = Net(), Net()
    trained.module[1].running_mean.fill_(0.3)
    assert not equal(tensors(trained), tensors(model))
    torch.save(wrap(trained.state_dict()), tmp_path / "w.pt")
    load_weights(model, read_weights(tmp_path / "w.pt"))
    assert equal(tensors(trained), tensors(model))


def test_safetensors_and_the_old_format(tmp_path):
    trained = Net()
    safetensors.torch.save_file(trained.state_dict(), tmp_path / "w.safetensors")
    torch.save(trained.state_dict(), tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "W.SAFETENSORS").write_bytes((tmp_path / "w.safetensors").read_bytes())
    for name in ("w.safetensors", "W.SAFETENSORS", "w.pth"):
        model = Net()
        load_weights(model, read_weights(tmp_path / name))
        assert equal(tensors(trained), tensors(model))


def test_extra_state_is_the_codes_and_tied_weights_may_be_saved_once(tmp_path):
    trained, model = Extra(), Extra()
    assert set(trained.state_dict()) - set(tensors(trained)) == {"_extra_state"}
    load_weights(model, tensors(trained))
    assert equal(tensors(trained), tensors(model))
    trained, model = Tied(), Tied()
    safetensors.torch.save_model(trained, str(tmp_path / "w.safetensors"))
    read = read_weights(tmp_path / "w.safetensors")
    assert len(read) < len(tensors(trained))
    load_weights(model, read)
    assert equal(tensors(trained), tensors(model))
    assert model.again is model.head


def script(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(nn.Linear(2, 2)).save(str(path))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (
            lambda path: torch.save(Net(), path),
            r"pickled .*Net, .*could run code.*hint: .*state_dict",
        ),
        (lambda path: torch.save({"model": Net()}, path), r"pickled .*Net"),
        (
            lambda path: torch.save({"w": torch.zeros(1), "best": np.float64(1)}, path),
            r"pickled numpy.*hint: ",
        ),
        (script, r"TorchScript.*hint: .*state_dict"),
        (lambda path: path.write_bytes(b"junk" * 99), "damaged"),
        (lambda path: path.write_bytes(b""), "damaged"),
        (lambda path: torch.save([torch.zeros(1)], path), "got list, expected a state dict"),
        (
            lambda path: torch.save({"epoch": 1, "loss": 2.0}, path),
            "got a dict of 'epoch', 'loss', expected",
        ),
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "got a folder"),
    ],
)
def test_what_holds_no_weights_is_refused_in_one_line(write, message, tmp_path):
    write(tmp_path / "w.pth")
    with pytest.raises(ValueError, match=message) as error:
        read_weights(tmp_path / "w.pth")
    assert "\n" not in str(error.value)


def test_damaged_safetensors_are_refused(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"junk" * 9)
    with pytest.raises(ValueError, match="damaged"):
        read_weights(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("head.bias"), "got no tensor head.bias, which the network has"),
        (
            lambda state: state.update(more=torch.zeros(1)),
            "got a tensor more, which the network does not have",
        ),
        (
            lambda state: state.update({"head.weight": torch.zeros(2, 5)}),
            r"got head.weight \(2, 5\), expected \(2, 3\)",
        ),
    ],
)
def test_weights_of_another_network_name_the_first_difference(change, message):
    state = dict(Net().state_dict())
    change(state)
    with pytest.raises(ValueError, match=message) as error:
        load_weights(Net(), state)
    assert "\n" not in str(error.value)


def test_a_packed_file_is_refused_before_it_is_unpacked(tmp_path):
    torch.save(nn.Linear(4, 2).state_dict(), tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, bytes(2**26) if name.endswith("data/0") else plain.read(name))
    with pytest.raises(InputError, match="that unpack to 67") as caught:
        read_weights(tmp_path / "packed.pth")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(2, 4, device="meta"),
        torch.zeros(2, 4).to_sparse(),
        torch.zeros(2, 4, dtype=torch.complex64),
    ],
)
def test_tensors_that_are_no_arrays_of_real_numbers_are_refused(tmp_path, tensor):
    torch.save({"weight": tensor, "bias": torch.zeros(2)}, tmp_path / "odd.pth")
    with pytest.raises(InputError, match=r"'weight': got .*, expected an array of real numbers"):
        read_weights(tmp_path / "odd.pth")


def test_a_tensor_that_claims_to_be_huge_takes_no_memory(tmp_path):
    torch.save({"weight": torch.zeros(1).expand(2**40), "bias": torch.zeros(2)}, tmp_path / "a.pth")
    with pytest.raises(InputError, match="1099511627776"):
        load_weights(nn.Linear(4, 2), read_weights(tmp_path / "a.pth"))
