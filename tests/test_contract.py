import pytest

from featherweight.contract import CONTRACTS, Contract, load_contract


def test_the_built_in_contracts():
    assert [(c.name, c.max_params, c.max_epochs, c.min_val_accuracy, c.consistent_epochs) for c in CONTRACTS] == [
        ("era-v3-s6", 20_000, 20, 0.994, 1), ("era-s7", 8_000, 16, 0.994, 3)]


@pytest.mark.parametrize("contract", CONTRACTS)
def test_toml_and_back(contract, tmp_path):
    (tmp_path / "c.toml").write_text(contract.to_toml())
    assert load_contract(str(tmp_path / "c.toml")) == contract
    assert load_contract(contract.name) is contract


@pytest.mark.parametrize(("change", "message"), [
    ({"max_params": 0}, "max_params"), ({"max_epochs": 2.5}, "max_epochs"), ({"min_val_accuracy": 99.4}, "fraction"),
    ({"heads": []}, "heads"), ({"heads": ["svm"]}, "heads"), ({"dropout": "yes"}, "dropout"), ({"name": ""}, "name"),
    ({"consistent_epochs": 20}, "consistent_epochs"), ({"colour": 1}, "unknown key 'colour'"),
])
def test_a_wrong_value_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        Contract.from_dict(CONTRACTS[0].to_dict() | change)


def test_a_missing_key_is_named():
    values = CONTRACTS[0].to_dict()
    del values["heads"]
    with pytest.raises(ValueError, match="missing key 'heads'"):
        Contract.from_dict(values)


def test_what_is_no_file_or_no_toml_is_refused(tmp_path):
    with pytest.raises(ValueError, match="era-v3-s6"):
        load_contract("nope")
    (tmp_path / "bad.toml").write_text("= 3")
    with pytest.raises(ValueError, match="not a TOML file"):
        load_contract(str(tmp_path / "bad.toml"))
