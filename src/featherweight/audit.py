"""Judge a network or a run against a contract, trusting no log.

    verdict = audit_model(model, split, contract)          # what a forward pass shows
    verdict, result = audit_run(open_run(path), split)     # that, the epochs, and every validation image anew
    verdict.passed, verdict.to_dict()

What an audit cannot see is whether the training really used the images it names: for that, train again with
the same seed on the same machine and compare the bits.
"""

import copy
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .contract import Contract
from .data import Split
from .evaluate import BATCH, Evaluation, evaluate, normalise, percent
from .run import IncompatibleWeights, Run
from .trace import FREE, Trace
from .weights import tensors

HEAD_NAMES = {"linear": "linear layer", "gap": "global average pooling", "other": "something else"}
PROBE = 64  # images of a structural pass: enough for the lightest dropout to drop some


@dataclass(frozen=True)
class Clause:
    """One requirement: what was asked, what was found, and how."""

    clause: str
    required: str
    found: str
    how: str
    passed: bool


@dataclass(frozen=True)
class Verdict:
    """The contract holds where every clause does."""

    contract: str
    clauses: tuple[Clause, ...]
    n_params: int | None
    "Stored numbers that the network reads; None where the weights are not the network's."

    @property
    def passed(self) -> bool:
        return all(clause.passed for clause in self.clauses)

    def to_dict(self) -> dict[str, Any]:
        return {"contract": self.contract, "passed": self.passed,
                "clauses": [asdict(clause) for clause in self.clauses]}


@torch.no_grad()
def _structure(model: nn.Module, split: Split, contract: Contract, everything: bool) -> tuple[list[Clause], int]:
    """The clauses that a forward pass shows, and the stored numbers it reads. `everything` watches all
    validation images, for a network that reads other weights for other images."""
    model = copy.deepcopy(model)  # a pass in training mode moves the batch-norm statistics
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    images = normalise(split.train.pixels[:PROBE].to(device), split.mean_std)
    others = torch.cat([images[:1], normalise(split.train.pixels[PROBE:2 * PROBE - 1].to(device),
                                              split.mean_std)])
    trace = Trace()

    def forward(batch: Tensor, seed: int) -> Tensor:
        torch.manual_seed(seed)
        with trace.watch(batch):
            out = model(batch)
        assert isinstance(out, Tensor)
        return out

    model.train()
    answer = forward(images, 0)
    batch_norms, (dropped, possible) = trace.batch_norms(answer), trace.dropped(answer)
    # What runs must also matter: other draws, or other images beside one, must change an answer.
    drop_matters = not torch.equal(answer, forward(images, 1))
    norm_matters = not torch.equal(answer[0], forward(others, 0)[0])
    model.eval()
    watched = split.val.pixels.to(device) if everything else split.val.pixels[:PROBE].to(device)
    for batch in watched.split(BATCH):
        out = forward(normalise(batch, split.mean_std), 0)
    heads, seen = trace.head(out)
    numbers = trace.stored_numbers()

    clauses = [Clause("parameters", f"fewer than {contract.max_params:,}", f"{numbers:,}",
                      f"stored numbers read by forward passes in both modes over {len(watched):,} images; "
                      f"batch-norm statistics and up to {FREE} constants free",
                      numbers < contract.max_params)]
    if contract.batch_norm:
        clauses.append(Clause("batch norm", "runs in training", f"{batch_norms} used",
                              "a training pass; other images in the batch must change an answer",
                              batch_norms > 0 and norm_matters))
    if contract.dropout:
        clauses.append(Clause("dropout", "runs in training, p > 0",
                              f"{dropped:,} of {possible:,} activations dropped",
                              "a training pass; another draw must change an answer",
                              dropped > 0 and drop_matters))
    clauses.append(Clause("head", " or ".join(HEAD_NAMES[name] for name in contract.heads),
                          " and ".join(HEAD_NAMES[name] for name in sorted(heads)),
                          f"last before log-softmax: {seen}", heads <= set(contract.heads)))
    return clauses, numbers


def audit_model(model: nn.Module, split: Split, contract: Contract, everything: bool = True) -> Verdict:
    """The clauses that need no training: parameters, batch norm, dropout, head. `everything` watches all validation
    images, not a few."""
    clauses, n_params = _structure(model, split, contract, everything)
    return Verdict(contract.name, tuple(clauses), n_params)


def _epochs(run: Run, contract: Contract) -> Clause:
    """Recipe, log and optimiser state must tell of the same number of epochs, within the limit."""
    state, rows, planned = run.load_resume(), run.read_metrics(), run.recipe.epochs
    if state is None:
        raise ValueError(f"{run.path}: incomplete: got no resume.pt, expected one")
    logged = [row.get("epoch") for row in rows]
    agree = logged == list(range(1, planned + 1)) and state["epoch"] == planned
    found = str(planned) if agree else f"recipe {planned}, log {len(rows)}, state {state['epoch']}"
    return Clause("epochs", f"fewer than {contract.max_epochs}", found,
                  "recipe, every row of the log and the saved state agree",
                  agree and planned < contract.max_epochs)


def _split(run: Run, split: Split, contract: Contract) -> Clause:
    train, val = split.train.digests(), split.val.digests()
    seen = set(train)
    overlap = sum(digest in seen for digest in val)
    same = split.sha256 == run.config["data"]["sha256"]
    sizes = f"{len(train):,} training, {len(val):,} validation"
    return Clause("split", f"{contract.train_size:,} training, {contract.val_size:,} validation, none in both",
                  f"{sizes}, {overlap:,} in both" + ("" if same else ", not the run's images"),
                  "a hash of every image; the split's hash is the run's",
                  (len(train), len(val)) == (contract.train_size, contract.val_size)
                  and overlap == 0 and same)


def _log_agrees(run: Run, epochs: dict[int, Evaluation]) -> Clause:
    """The log's count for each epoch whose weights are kept is what those weights give now."""
    rows = {row.get("epoch"): row for row in run.read_metrics()}
    differ = [f"epoch {epoch}: log {rows.get(epoch, {}).get('val_correct')}, weights {result.correct}"
              for epoch, result in epochs.items()
              if rows.get(epoch, {}).get("val_correct") != result.correct
              or rows[epoch].get("val_total") != result.total]
    return Clause("log", "tells what the weights give", "; ".join(differ) or "agrees",
                  f"counts of epoch {', '.join(map(str, epochs))} against the evaluation", not differ)


def _weights(run: Run, model: nn.Module) -> Clause:
    """The headline's weights are the last ones the training saved."""
    state = run.load_resume()
    assert state is not None  # _epochs has refused that
    saved, final = state["averaged"], tensors(model)
    same = saved.keys() == final.keys() and all(torch.equal(saved[key], final[key].cpu()) for key in final)
    return Clause("weights", "the last epoch's", "the last epoch's" if same else "other weights",
                  "model.safetensors against the saved training state, bit for bit", same)


def audit_run(run: Run, split: Split, contract: Contract | None = None,
              device: torch.device | None = None) -> tuple[Verdict, Evaluation | None]:
    """Rebuild the network, load its weights, watch it, and evaluate every validation image anew.

    Returns the verdict and that evaluation (None where the weights are not this network's). Raises
    ValueError for a run that is incomplete.
    """
    contract = contract or run.contract
    device = device or torch.device("cpu")
    epochs = _epochs(run, contract)
    try:
        model = run.load_model().to(device)
    except IncompatibleWeights as error:
        clause = Clause("weights", "the last epoch's", "another network's", str(error), False)
        return Verdict(contract.name, (clause,), None), None
    val, last = split.val.to(device), run.recipe.epochs
    results = {}
    for epoch in range(max(1, last - contract.consistent_epochs + 1), last):
        if (run.path / f"epoch-{epoch}.safetensors").is_file():
            try:
                earlier = run.load_model(f"epoch-{epoch}.safetensors").to(device)
            except IncompatibleWeights:
                continue  # its accuracy counts as missing below, which fails
            results[epoch] = evaluate(earlier, val, split.mean_std)
    results[last] = result = evaluate(model, val, split.mean_std)
    needed = contract.consistent_epochs
    accuracies = "; ".join(f"epoch {epoch}: {percent(r.correct, r.total)}" for epoch, r in results.items())
    missing = needed - len(results)
    accuracy = Clause(
        "accuracy", f"at least {100 * contract.min_val_accuracy:.2f} %"
        + (f" in each of the last {needed} epochs" if needed > 1 else ""),
        accuracies + (f"; weights of {missing} epochs are not there" if missing else ""),
        f"every one of {result.total:,} validation images evaluated anew",
        not missing and all(r.accuracy >= contract.min_val_accuracy for r in results.values()))
    structure, n_params = _structure(model, split, contract, everything=True)
    clauses = [*structure, epochs, _split(run, split, contract),
               accuracy, _weights(run, model), _log_agrees(run, results)]
    return Verdict(contract.name, tuple(clauses), n_params), result
