"""Contracts: built in, from TOML, and refused."""

import dataclasses

import pytest
from helpers import TINY, make_contract

from featherweight.contract import CONTRACTS, Contract, load_contract
from featherweight.errors import InputError
from featherweight.requirements import KINDS, Requirement

MNIST = "MNIST's 50,000 training, 10,000 validation, none alike"
CIFAR = "CIFAR-10's 45,000 training, 5,000 validation, none alike"
ALONE = "each output depends on its image alone"
LAYERS = {
    "batch norm": "runs in training",
    "dropout": "runs in training, p at least 0.001",
    "head": "linear layer or global average pooling",
}
POOLED = {"head": "global average pooling, and behind it at most linear layers"}


def old(params, epochs, accuracy):
    """The rows of a contract that was built in before there were clauses."""
    limits = {"parameters": f"fewer than {params}", **LAYERS}
    training = {"epochs": f"fewer than {epochs}"}
    return limits | {"evaluation": ALONE} | training | {"split": MNIST, "accuracy": accuracy}


def session_8(norm):
    return {
        "parameters": "fewer than 50,000",
        f"{norm} norm": f"{'runs in training' if norm == 'batch' else 'at least one'}, "
        "and no other normalisation",
        **POOLED,
        "evaluation": ALONE,
        "epochs": "at most 20",
        "split": CIFAR,
        "accuracy": "more than 70.00 %",
    }


BUILT_IN = {
    "era-v3-s6": old("20,000", 20, "at least 99.40 %"),
    "era-s5": {
        "parameters": "fewer than 25,000",
        "evaluation": ALONE,
        "epochs": "at most 1",
        "split": MNIST,
        "training accuracy": "at least 95.00 %",
    },
    "era-s7": {
        "parameters": "fewer than 8,000",
        "evaluation": ALONE,
        "epochs": "fewer than 16",
        "split": MNIST,
        "accuracy": "at least 99.40 % in each of the last 3 epochs",
    },
    "eva-10k": {
        "parameters": "fewer than 10,000",
        "parameters (bonus)": "fewer than 8,000",
        "evaluation": ALONE,
        "epochs": "at most 15",
        "split": MNIST,
        "accuracy": "at least 99.40 % in each of the last 3 epochs",
    },
    "era-s8-bn": session_8("batch"),
    "era-s8-gn": session_8("group"),
    "era-s8-ln": session_8("layer"),
    "era-s9": {
        "parameters": "fewer than 200,000",
        **POOLED,
        "no max-pool": "no max-pool layer",
        "no stride (bonus)": "no layer that skips positions",
        "dilated": "at least 1",
        "depthwise separable": "at least 1",
        "receptive field": "more than 44 pixels",
        "evaluation": ALONE,
        "split": CIFAR,
        "accuracy": "at least 85.00 %",
    },
    "era-s10": {
        "evaluation": ALONE,
        "epochs": "at most 24",
        "batch size": "512",
        "optimiser": "adam",
        "schedule": "one-cycle, highest in epoch 5",
        "split": CIFAR,
        "accuracy": "at least 90.00 %",
    },
    "reader": {
        "parameters": "fewer than 20,000",
        "evaluation": ALONE,
        "split": "50,000 training, 10,000 validation, none alike",
        "accuracy": "at least 99.59 %",
    },
    "under-4k": old("4,000", 20, "at least 99.35 %"),
    "under-2500": old("2,500", 20, "at least 99.30 %"),
    "under-2k": old("2,000", 20, "at least 99.20 %"),
    "under-1k": old("1,000", 20, "at least 98.80 %"),
    "fashion-20k": old("20,000", 20, "at least 92.00 %")
    | {"split": "Fashion-MNIST's 50,000 training, 10,000 validation, none alike"},
}


def clause(kind, **values):
    return {"kind": kind, **values}


def with_clauses(*tables, **top):
    return {"name": "mine", "train_size": 500, "val_size": 100, "clause": list(tables)} | top


def test_the_built_in_contracts_in_words_and_in_order():
    found = {c.name: [(title, required) for title, required, _ in c.rows] for c in CONTRACTS}
    assert found == {name: list(rows.items()) for name, rows in BUILT_IN.items()}
    for contract in CONTRACTS:
        bonus = [title for title, _, each in contract.rows if each.bonus]
        assert all(title.endswith("(bonus)") for title in bonus)
        # Evaluation and split are conditions; every other clause is worth a point, but for the
        # 200 that the text of session 9 gives.
        points = {title: each.points for title, _, each in contract.rows}
        assert {points.pop("evaluation"), points.pop("split")} == {0}
        assert points.pop("no stride (bonus)", 200) == 200
        assert set(points.values()) == {1}


def test_old_files_of_the_built_in_contracts_are_the_built_in_contracts():
    layers = {"batch_norm": True, "dropout": True, "heads": ["gap", "linear"]}
    values = {
        "name": "era-v3-s6",
        "max_params": 20_000,
        "max_epochs": 20,
        "min_val_accuracy": 0.994,
        "train_size": 50_000,
        "val_size": 10_000,
        "data": "mnist",
    }
    contract = Contract.from_dict(values | layers)
    assert contract.is_built_in
    assert (contract.max_params, contract.max_epochs) == (20_000, 20)
    assert (contract.min_val_accuracy, contract.consistent_epochs) == (0.994, 1)
    del values["data"]
    assert Contract.from_dict(values | layers).is_built_in
    assert Contract.from_dict(values | {"name": "mine"}).data == ""
    # Session 7 once asked for layers that its text does not ask for: that is more, and as good.
    values |= {"name": "era-s7", "max_params": 8_000, "max_epochs": 16, "consistent_epochs": 3}
    assert Contract.from_dict(values).is_built_in
    older = Contract.from_dict(values | layers)
    assert not older.is_built_in
    assert older.differences() == {}
    assert older.additions() == ("batch norm", "dropout", "head")
    # A bonus is a difference: it could be worth anything.
    rich = Contract.from_dict(values | {"clause": [clause("head", gap=True, points=9, bonus=True)]})
    assert list(rich.differences()) == ["head (bonus)"]


ALL_KINDS = Contract(
    'a "b" \\ é',
    "cifar-10",
    1,
    1,
    (
        Requirement("parameters", {"at_most": 9, "which": "trainable"}, 0.5),
        Requirement("normalisation", {"norm": "layer"}),
        Requirement("dropout", {"least": 0.05, "greatest": 0.1, "all_but": 0}),
        Requirement("head", {"accept": ("gap",)}),
        Requirement("forbid", {"layer": "pretrained"}),
        Requirement("require", {"layer": "stride", "at_least": 3}, 200, True),
        Requirement("receptive field", {"at_least": 32}),
        Requirement("macs", {"at_most": 10**7}),
        Requirement("views", {"at_most": 4}),
        Requirement("evaluation", points=0),
        Requirement("epochs", {"at_most": 24}),
        Requirement("batch size", {"at_least": 64, "at_most": 512}),
        Requirement("optimiser", {"accept": ["adam", "sgd"]}),
        Requirement("schedule", {"name": "one-cycle", "peak_epoch": 5}),
        Requirement("teacher", {"accept": ["none", "network"]}),
        Requirement("split", points=2),
        Requirement("accuracy", {"at_least": 1e-05, "bands": [[0.6, 0], [0.9, 7.5]]}, 7.5),
    ),
)


@pytest.mark.parametrize("contract", [*CONTRACTS, ALL_KINDS], ids=lambda contract: contract.name)
def test_toml_and_json_and_back(contract, tmp_path):
    (tmp_path / "c.toml").write_text(contract.to_toml())
    assert load_contract(str(tmp_path / "c.toml")) == contract
    assert Contract.from_dict(contract.to_dict()) == contract
    assert hash(Contract.from_dict(contract.to_dict())) == hash(contract)


def test_every_kind_is_in_the_round_trip():
    assert {clause.kind for clause in ALL_KINDS.clauses} == set(KINDS)


def test_a_built_in_name_goes_before_a_file():
    assert all(load_contract(contract.name) is contract for contract in CONTRACTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_params": 0}, "contract max_params: got 0, expected a whole number of at least 2"),
        ({"max_params": True}, "max_params"),
        ({"max_epochs": 2.5}, "max_epochs"),
        ({"train_size": "50"}, "train_size"),
        ({"val_size": -1}, "val_size"),
        ({"batch_norm": 1}, "contract batch_norm: got 1, expected true or false"),
        ({"min_val_accuracy": 99.4}, "fraction"),
        ({"min_val_accuracy": "0.9"}, "fraction"),
        ({"min_val_accuracy": float("nan")}, "fraction"),
        ({"name": 7}, "name"),
        ({"name": ""}, "name"),
        ({"heads": []}, "heads"),
        ({"heads": "gap"}, "heads"),
        ({"heads": ["svm"]}, "heads"),
        ({"dropout": "yes"}, "dropout"),
        ({"max_macs": 1}, "contract max_macs: got 1, expected a whole number of at least 2"),
        ({"views": 0}, "contract views: got 0, expected a whole number of at least 1"),
        ({"views": [[0, 1]]}, "contract views: got"),
        (
            {"consistent_epochs": 20},
            r"epochs \(fewer than 20\) and accuracy .*the epochs can't meet",
        ),
        ({"data": "letters"}, "data: got 'letters', expected mnist, fashion-mnist, cifar-10"),
        ({"data": 7}, "data: got 7"),
        ({"data": ["mnist"]}, r"data: got \['mnist'\]"),
        ({"colour": 1}, "unknown key 'colour'"),
        ({"clause": {"kind": "head"}}, r"expected tables, each under \[\[clause\]\]"),
    ],
)
def test_a_wrong_value_is_named(change, message):
    with pytest.raises(InputError, match=message):
        make_contract(**change)


@pytest.mark.parametrize("key", ["name", "train_size", "val_size"])
def test_a_missing_key_is_named(key):
    values = dict(TINY)
    del values[key]
    with pytest.raises(InputError, match=f"missing key '{key}'"):
        Contract.from_dict(values)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"fewer_than": 5}, "contract clause 2: got no kind, expected one of parameters, "),
        (clause("colour"), "clause 2: kind: got 'colour', expected parameters, "),
        (clause(["head"]), r"clause 2: kind: got \['head'\]"),
        (clause("epochs", max=5), "epochs: unknown key 'max', expected fewer_than, at_most, poi"),
        (clause("epochs", fewer_than=1), "got 1, expected a whole number of at least 2"),
        (clause("epochs", at_most="5"), "epochs at_most: got '5', expected a whole number"),
        (clause("epochs"), "epochs: missing key, expected fewer_than or at_most"),
        (clause("epochs", at_most=5, fewer_than=6), "got fewer_than and at_most, expected one"),
        (clause("parameters", at_most=5, which="some"), "which: got 'some', expected all or tr"),
        (clause("normalisation"), "normalisation: missing key, expected norm"),
        (clause("normalisation", norm="instance"), "got 'instance', expected batch or group or"),
        (clause("dropout", least=0.2, greatest=0.1), "0.2 and at most 0.1, which no dropout p m"),
        (clause("dropout", greatest=0.0001), "p at least 0.001 and at most 0.0001, which no dro"),
        (clause("parameters", fewer_than=1), "got 1, expected a whole number of at least 2"),
        (clause("macs", fewer_than=1), "got 1, expected a whole number of at least 2"),
        (clause("views"), "views: missing key, expected at_most"),
        (clause("views", fewer_than=2), "views: unknown key 'fewer_than', expected at_most, poi"),
        (clause("views", at_most=0), "views at_most: got 0, expected a whole number of at least 1"),
        (clause("dropout", least=5), "least: got 5, expected a fraction between 0 and 1"),
        (clause("dropout", all_but=-1), "expected a whole number of at least 0"),
        (clause("head"), "head: missing key, expected accept or gap"),
        (clause("head", accept=["gap"], gap=True), "got accept and gap, expected one of them"),
        (clause("forbid", layer="softmax"), "expected max-pool or linear or stride or pretrained"),
        (clause("require", layer="dilated"), "require: missing key, expected at_least"),
        (clause("batch size"), "missing key, expected exactly or at_least"),
        (
            clause("batch size", exactly=8, at_most=9),
            "got exactly and at_most, expected exac",
        ),
        (clause("batch size", at_least=9, at_most=8), "least 9, which no batch size meets"),
        (clause("batch size", exactly=1), "got 1, expected a whole number of at least 2"),
        (clause("optimiser", accept=["muon"]), "optimiser: got muon, which no optimiser beside mu"),
        (clause("teacher", accept=["me"]), "expected a list of some of none, network"),
        (clause("optimiser", accept=["newton"]), "expected a list of some of sgd, muon, adam"),
        (clause("schedule", name="constant", peak_epoch=3), "got peak_epoch with constant"),
        (clause("accuracy", more_than=1.0), "more_than: got 1.0, expected .* from 0 to below 1"),
        (clause("accuracy", at_least=0.9, bands=[[0.9, 1]]), r"expected a list of \[accuracy, p"),
        (clause("accuracy", at_least=0.9, bands=[[0.9, 5], [0.99, 1]]), "of which both rise"),
        (clause("accuracy", at_least=0.9, bands=[[0.99, 1], [0.9, 5]]), "of which both rise"),
        (clause("accuracy", at_least=0.9, bands=[[0.9, -1], [0.99, 5]]), "of which both rise"),
        (
            clause("accuracy", at_least=0.9, bands=[[0.6, 0], [0.9, 7]], points=5),
            "accuracy points: got 5, expected the last band's 7",
        ),
        (clause("split", train=5), "split: unknown key 'train', expected points, bonus"),
        (clause("dropout", points=-1), "dropout points: got -1, expected 0 to 1,000,000"),
        (clause("dropout", points=10**400), "points: got 1000"),
        (clause("dropout", points="2"), "points: got '2'"),
        (clause("dropout", points=float("inf")), "points: got inf"),
        (clause("dropout", bonus=1, points=1), "bonus: got 1, expected true or false"),
        (clause("dropout", bonus=True), "dropout: got a bonus without points, expected points"),
        (clause("dropout", bonus=True, points=0), "got a bonus of no points"),
    ],
)
def test_a_wrong_clause_is_named(table, message):
    good = clause("parameters", fewer_than=5)
    with pytest.raises(InputError, match=message) as caught:
        Contract.from_dict(with_clauses(good, table))
    assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize(
    ("one", "other", "quantity"),
    [
        (clause("epochs", at_most=2), clause("accuracy", at_least=0.9, last_epochs=3), "epochs"),
        (clause("epochs", fewer_than=5), clause("schedule", name="one-cycle", peak_epoch=5), "ep"),
        (clause("dropout", least=0.2), clause("dropout", greatest=0.1), "dropout p"),
        (clause("head", accept=["gap"]), clause("head", accept=["linear"]), "last layer"),
        (
            clause("normalisation", norm="group", only=True),
            clause("normalisation", norm="batch"),
            "batch norm",
        ),
        (clause("batch size", exactly=512), clause("batch size", at_most=128), "batch size"),
        (clause("optimiser", accept=["adam"]), clause("optimiser", accept=["sgd"]), "optimiser"),
        (
            clause("optimiser", accept=["adam", "muon"]),
            clause("optimiser", accept=["sgd", "muon"]),
            "optimiser",
        ),
        (clause("schedule", name="one-cycle"), clause("schedule", name="constant"), "schedule"),
        (
            clause("schedule", name="one-cycle", peak_epoch=3),
            clause("schedule", name="one-cycle", peak_epoch=5),
            "peak",
        ),
        (
            clause("forbid", layer="stride"),
            clause("require", layer="stride", at_least=1),
            "layers with a stride",
        ),
    ],
)
def test_two_clauses_that_cannot_both_hold_are_refused(one, other, quantity):
    with pytest.raises(InputError, match=f"contract: got .* and .*, but the {quantity}"):
        Contract.from_dict(with_clauses(one, other))
    # A bonus asks for what not every network has to have.
    Contract.from_dict(with_clauses(one, other | {"bonus": True, "points": 1}))


def test_clauses_of_one_kind_that_can_both_hold_have_names_of_their_own():
    contract = Contract.from_dict(
        with_clauses(
            clause("accuracy", at_least=0.99),
            clause("accuracy", more_than=0.994, points=2),
            clause("parameters", fewer_than=9_000),
            clause("parameters", at_most=7_999),
        )
    )
    titles = [title for title, _, _ in contract.rows]
    assert titles == ["parameters", "parameters 2", "evaluation", "split", "accuracy", "accuracy 2"]
    # What all of them ask for.
    assert (contract.max_params, contract.min_val_accuracy, contract.max_epochs) == (
        8_000,
        0.994,
        None,
    )


def test_a_flat_key_and_a_clause_of_its_kind_are_refused():
    with pytest.raises(InputError, match="a clause epochs beside max_epochs, which stands for on"):
        make_contract(clause=[clause("epochs", at_most=5)])
    bonus = make_contract(clause=[clause("parameters", fewer_than=9, points=1, bonus=True)])
    assert [title for title, _, _ in bonus.rows][:2] == ["parameters", "parameters (bonus)"]
    with pytest.raises(InputError, match="got consistent_epochs, expected min_val_accuracy"):
        Contract.from_dict(with_clauses(consistent_epochs=3))


def test_macs_views_and_teacher_have_shorthands():
    contract = make_contract(max_macs=10**6, views=4, teacher=["none"])
    rows = {title: required for title, required, _ in contract.rows}
    assert (rows["macs"], rows["views"]) == ("fewer than 1,000,000", "at most 4")
    assert rows["teacher"] == "none"
    assert Contract.from_dict(contract.to_dict()) == contract
    with pytest.raises(InputError, match="a clause views beside views, which stands for one"):
        make_contract(views=4, clause=[clause("views", at_most=5)])


def test_a_contract_asks_for_something():
    with pytest.raises(InputError, match="contract: got 0 clauses, expected 1 to 100"):
        Contract.from_dict(with_clauses())
    with pytest.raises(InputError, match="contract: got 101 clauses"):
        Contract.from_dict(with_clauses(*101 * [clause("dropout")]))
    with pytest.raises(InputError, match="got two clauses split, expected at most one"):
        Contract.from_dict(with_clauses(clause("split"), clause("split")))
    for again in (clause("dropout", points=3), clause("dropout", points=3, bonus=True)):
        with pytest.raises(InputError, match=r"got the clause dropout \(runs in .* twice, expec"):
            Contract.from_dict(with_clauses(clause("dropout"), again))
    with pytest.raises(InputError, match="got evaluation as a bonus, expected it without"):
        Contract.from_dict(with_clauses(clause("evaluation", points=1, bonus=True)))


def test_a_contract_says_where_it_differs_from_the_built_in_of_its_name():
    built_in = CONTRACTS[0]
    assert built_in.is_built_in
    assert built_in.differences() == {}
    gutted = Contract.from_dict(
        TINY
        | {"name": "era-v3-s6", "max_params": 10**9, "heads": ["gap"], "dropout": False}
        | {"data": "", "train_size": 50_000, "val_size": 10_000, "min_val_accuracy": 0.994}
    )
    assert not gutted.is_built_in
    assert gutted.differences() == {
        "data": ("", "mnist"),
        "parameters": ("fewer than 1,000,000,000", "fewer than 20,000"),
        "dropout": ("no such clause", "runs in training, p at least 0.001"),
        "head": ("global average pooling", "linear layer or global average pooling"),
    }
    cheap = [dataclasses.replace(clause, points=0) for clause in built_in.clauses]
    assert "accuracy" in dataclasses.replace(built_in, clauses=tuple(cheap)).differences()
    session_8 = load_contract("era-s8-bn")
    lower = Contract.from_dict(
        {
            **session_8.to_dict(),
            "clause": [
                each.to_dict() | ({"more_than": 0.6999999} if each.kind == "accuracy" else {})
                for each in session_8.clauses
            ],
        }
    )
    assert lower.differences() == {"accuracy": ("more than 69.99999 %", "more than 70.00 %")}
    values = built_in.to_dict()
    values["clause"][-1]["bands"] = [[0.5, 0], [0.6, 1]]
    assert list(Contract.from_dict(values).differences()) == ["accuracy"]
    mine = dataclasses.replace(gutted, name="mine")
    assert (mine.is_built_in, mine.differences()) == (False, {})


def test_a_notebook_shows_the_clauses_escaped():
    html = load_contract("era-s9")._repr_html_()
    assert "CIFAR-10" in html
    for word in ("parameters", "fewer than 200,000", "no stride (bonus)", "more than 44 pixels"):
        assert word in html
    mine = make_contract(name="<b>")._repr_html_()
    assert "&lt;b&gt;" in mine
    assert "any data" in mine


def test_what_is_no_file_or_no_toml_is_refused(tmp_path):
    with pytest.raises(InputError, match="era-v3-s6"):
        load_contract("nope")
    with pytest.raises(InputError, match="neither built in"):
        load_contract(str(tmp_path))
    too_deep, too_long = b"a = " + 10_000 * b"[", b"a = " + 5_000 * b"9"
    for content in (b"= 3", b"name = '\xff'", too_deep, too_long):
        (tmp_path / "bad.toml").write_bytes(content)
        with pytest.raises(InputError, match=r"bad\.toml: not a TOML file"):
            load_contract(str(tmp_path / "bad.toml"))


@pytest.mark.parametrize(
    ("table", "top", "hint"),
    [
        (clause("normalization", norm="batch"), {}, "did you mean normalisation?"),
        (clause("epochs", atmost=5), {}, "did you mean at_most?"),
        (clause("epochs", at_most=5), {"max_param": 5}, "did you mean max_params?"),
        (clause("dropout", max_params=5), {}, "stand above the first"),
        (clause("dropout", data=""), {}, "stand above the first"),
        (clause("softmax"), {}, None),
    ],
)
def test_a_slip_gets_a_hint(table, top, hint):
    with pytest.raises(InputError) as caught:
        Contract.from_dict(with_clauses(table, **top))
    assert (hint or "") in (caught.value.hint or "")
    assert (caught.value.hint is None) is (hint is None)


def test_what_is_missing_gets_a_hint():
    for tables, hint in (([], "print an example"), ([clause("dropout", name="x")], "stand above")):
        with pytest.raises(InputError, match="missing key 'name', expected name, tr") as caught:
            Contract.from_dict({"train_size": 5, "val_size": 5, "clause": tables})
        assert hint in caught.value.hint
    with pytest.raises(InputError) as caught:
        load_contract("ERA-S7")
    assert caught.value.hint == "did you mean era-s7?"


def test_a_long_value_is_shortened_and_a_large_file_refused(tmp_path):
    for table in (clause(1000 * "x"), clause("head", accept=1000 * ["x"]), {"kind": 50 * ["head"]}):
        with pytest.raises(InputError, match="…, expected") as caught:
            Contract.from_dict(with_clauses(table))
        assert len(caught.value.message) < 350
    (tmp_path / "large.toml").write_text("#" + 2**20 * "x")
    with pytest.raises(
        InputError, match=r"large\.toml: got 1,048,577 bytes, expected a contract of"
    ):
        load_contract(str(tmp_path / "large.toml"))


def test_a_wrong_value_names_its_file(tmp_path):
    (tmp_path / "c.toml").write_text(CONTRACTS[0].to_toml().replace("20000", "'many'"))
    with pytest.raises(InputError, match=r"c\.toml: contract clause 1: parameters fewer_than: got"):
        load_contract(str(tmp_path / "c.toml"))


@pytest.mark.parametrize("name", ["", "a\nb", "\x1b[2J", "\u202ex", "x" * 101, 5])
def test_a_name_is_one_printable_line(name):
    with pytest.raises(InputError, match="contract name: got") as caught:
        make_contract(name=name)
    assert str(caught.value).isprintable()


def test_what_met_a_contract_that_asked_for_more_meets_the_one_of_today():
    built_in = load_contract("era-s7")
    values = built_in.to_dict()
    stricter = Contract.from_dict(
        values | {"clause": [*values["clause"], {"kind": "dropout", "points": 5}]}
    )
    assert stricter != built_in
    assert stricter.current() == built_in
    assert built_in.current() is built_in
    looser = Contract.from_dict(values | {"clause": values["clause"][1:]})
    assert looser.current() is looser
    other_images = Contract.from_dict(values | {"train_size": 40_000})
    assert other_images.current() is other_images
    assert dataclasses.replace(stricter, name="mine").current().name == "mine"


def test_points_and_bonuses_decide_no_passing():
    built_in = load_contract("era-s9")
    values = built_in.to_dict()
    clauses = [each for each in values["clause"] if not each.get("bonus")]
    assert Contract.from_dict(values | {"clause": clauses}).current() == built_in
