"""Contracts: built in, from TOML, and refused."""

import pytest

from featherweight.contract import CONTRACTS, Contract, load_contract


def test_the_built_in_contracts():
    data_and_layers = {
        "train_size": 50_000,
        "val_size": 10_000,
        "batch_norm": True,
        "dropout": True,
        "heads": ["linear", "gap"],
        "data": "mnist",
    }
    assert [contract.to_dict() for contract in CONTRACTS] == [
        {
            "name": "era-v3-s6",
            "max_params": 20_000,
            "max_epochs": 20,
            "min_val_accuracy": 0.994,
            "consistent_epochs": 1,
        }
        | data_and_layers,
        {
            "name": "era-s7",
            "max_params": 8_000,
            "max_epochs": 16,
            "min_val_accuracy": 0.994,
            "consistent_epochs": 3,
        }
        | data_and_layers,
        {
            "name": "under-4k",
            "max_params": 4_000,
            "max_epochs": 20,
            "min_val_accuracy": 0.9935,
            "consistent_epochs": 1,
        }
        | data_and_layers,
        {
            "name": "under-1k",
            "max_params": 1_000,
            "max_epochs": 20,
            "min_val_accuracy": 0.988,
            "consistent_epochs": 1,
        }
        | data_and_layers,
    ]


@pytest.mark.parametrize(
    "contract", [*CONTRACTS, Contract('a "b" \\ é', 1, 2, 1e-05, 1, 1, 1, False, False, ("gap",))]
)
def test_toml_and_back(contract, tmp_path):
    (tmp_path / "c.toml").write_text(contract.to_toml())
    assert load_contract(str(tmp_path / "c.toml")) == contract


def test_a_built_in_name_goes_before_a_file():
    assert all(load_contract(contract.name) is contract for contract in CONTRACTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_params": 0}, "max_params"),
        ({"max_params": True}, "max_params"),
        ({"max_epochs": 2.5}, "max_epochs"),
        ({"train_size": "50"}, "train_size"),
        ({"val_size": -1}, "val_size"),
        ({"batch_norm": 1}, "batch_norm"),
        ({"min_val_accuracy": 99.4}, "fraction"),
        ({"min_val_accuracy": "0.9"}, "fraction"),
        ({"min_val_accuracy": float("nan")}, "fraction"),
        ({"name": 7}, "name"),
        ({"name": ""}, "name"),
        ({"heads": []}, "heads"),
        ({"heads": "gap"}, "heads"),
        ({"heads": ["svm"]}, "heads"),
        ({"dropout": "yes"}, "dropout"),
        ({"consistent_epochs": 20}, "consistent_epochs"),
        ({"data": "letters"}, "data: got 'letters', expected mnist"),
        ({"data": 7}, "data: got 7"),
        ({"colour": 1}, "unknown key 'colour'"),
    ],
)
def test_a_wrong_value_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        Contract.from_dict(CONTRACTS[0].to_dict() | change)


def test_a_missing_key_is_named():
    values = CONTRACTS[0].to_dict()
    del values["heads"]
    with pytest.raises(ValueError, match="missing key 'heads'"):
        Contract.from_dict(values)


def test_a_contract_without_the_key_data_is_about_the_built_ins_or_any():
    values = CONTRACTS[0].to_dict()
    del values["data"]
    assert Contract.from_dict(values) == CONTRACTS[0]
    assert Contract.from_dict(values | {"name": "mine"}).data == ""
    assert Contract.from_dict(values | {"data": ""}).data == ""


def test_a_contract_says_where_it_differs_from_the_built_in_of_its_name():
    built_in = CONTRACTS[0]
    assert built_in.is_built_in
    assert built_in.differences() == {}
    values = built_in.to_dict() | {"max_params": 10**9, "heads": ["gap"], "data": ""}
    gutted = Contract.from_dict(values)
    assert not gutted.is_built_in
    assert gutted.differences() == {
        "max_params": (10**9, 20_000),
        "heads": (["gap"], ["linear", "gap"]),
        "data": ("", "mnist"),
    }
    mine = Contract.from_dict(values | {"name": "mine"})
    assert (mine.is_built_in, mine.differences()) == (False, {})


def test_what_is_no_file_or_no_toml_is_refused(tmp_path):
    with pytest.raises(ValueError, match="era-v3-s6"):
        load_contract("nope")
    with pytest.raises(ValueError, match="neither built in"):
        load_contract(str(tmp_path))
    for content in (b"= 3", b"name = '\xff'"):
        (tmp_path / "bad.toml").write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.toml: not a TOML file"):
            load_contract(str(tmp_path / "bad.toml"))


def test_a_wrong_value_names_its_file(tmp_path):
    (tmp_path / "c.toml").write_text(CONTRACTS[0].to_toml().replace("20000", "'many'"))
    with pytest.raises(ValueError, match=r"c\.toml: contract max_params: got 'many'"):
        load_contract(str(tmp_path / "c.toml"))


@pytest.mark.parametrize("name", ["", "a\nb", "\x1b[2J", "\u202ex", "x" * 101, 5])
def test_a_name_is_one_printable_line(name):
    with pytest.raises(ValueError, match="contract name: got") as caught:
        Contract.from_dict(CONTRACTS[0].to_dict() | {"name": name})
    assert str(caught.value).isprintable()
