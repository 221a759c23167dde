"""Requirements of a network's structure."""

from typing import ClassVar

from .._layers import NORMS as NORM_LAYERS
from .._layers import ends, without_dropout
from ..facts import MIN_DROPOUT, Effect, Facts, Structure
from ._kind import (
    FLAG,
    RATE,
    WHOLE,
    Allowed,
    Finding,
    Kind,
    Limits,
    holds,
    layers_of,
    one_of,
    some_of,
    whole,
    words,
)

HEADS = {"linear": "linear layer", "gap": "global average pooling"}
NORMS = ("batch", "group", "layer")
POOL = "global average pool"  # in a layer table


class Parameters(Kind):
    """Stored numbers that the network reads, all of them or the trainable ones."""

    name = "parameters"
    keys: ClassVar = {
        "fewer_than": whole(2),
        "at_most": WHOLE,
        "which": one_of(("all", "trainable"), default="all"),
    }
    exactly_one: ClassVar = (("fewer_than", "at_most"),)

    def required(self, limits: Limits) -> str:
        """Return the limit, and which numbers are meant."""
        which = " trainable" if limits.get("which") == "trainable" else ""
        return f"{words(limits)}{which}"

    def judge(self, limits: Limits, facts: Facts) -> Finding:
        """Compare the count."""
        found = _structure(facts)
        trainable = limits.get("which") == "trainable"
        number = found.n_trainable if trainable else found.n_params
        unread = f" ({found.declared:,} declared)" if found.declared > found.n_params else ""
        only = "; of these the parameters with a gradient" if trainable else ""
        return Finding(
            f"{number:,}{unread}", f"{found.counted}{only}", passed=holds(limits, number)
        )


class Normalisation(Kind):
    """Batch, group or layer normalisation, perhaps as the only one."""

    name = "normalisation"
    keys: ClassVar = {"norm": one_of(NORMS), "only": FLAG}
    exactly_one: ClassVar = (("norm",),)

    def title(self, limits: Limits) -> str:
        """Return the name of the normalisation."""
        return f"{limits['norm']} norm"

    def required(self, limits: Limits) -> str:
        """Return where it must run."""
        runs = "runs in training" if limits["norm"] == "batch" else "at least one"
        return f"{runs}, and no other normalisation" if limits.get("only") else runs

    def needs(self, limits: Limits) -> tuple[str, ...]:
        """See batch norm alone without a layer table."""
        batch = limits["norm"] == "batch"
        return ("structure", "layers") if limits.get("only") or not batch else ("structure",)

    def judge(self, limits: Limits, facts: Facts) -> Finding:
        """Look for the layers, and with `only` for others."""
        name = f"{limits['norm']} norm"
        kinds = [] if facts.layers is None else [layer.kind for layer in facts.layers.layers]
        if name == "batch norm":
            finding = _effect(name, facts)
        else:
            number = kinds.count(name)
            how = (
                "layers of the graph, PyTorch's own or (x - mean) / sqrt(variance + eps) by hand; "
                "a group norm of one group is a layer norm"
            )
            finding = Finding(f"{number} used", how, passed=number > 0)
        others = set(kinds) & set(NORM_LAYERS)
        if _structure(facts).batch_norm.works:  # perhaps one that is written by hand
            others.add("batch norm")
        others -= {name}
        if limits.get("only") and others:
            found = f"{finding.found}; also {' and '.join(sorted(others))}"
            return Finding(found, finding.how, passed=False)
        return finding

    def allows(self, limits: Limits) -> dict[str, Allowed]:
        """With `only` there is no other."""
        there = {f"{limits['norm']} norm": frozenset({"there"})}
        only = {f"{norm} norm": frozenset({"not there"}) for norm in NORMS}
        return {**(only if limits.get("only") else {}), **there}


class Dropout(Kind):
    """Dropout in training, perhaps of certain rates and after all layers but some."""

    name = "dropout"
    keys: ClassVar = {"least": RATE, "greatest": RATE, "all_but": whole(0)}

    def required(self, limits: Limits) -> str:
        """Return the rates, and after how many layers."""
        least, greatest = limits.get("least", MIN_DROPOUT), limits.get("greatest")
        words = f"runs in training, p at least {least}"
        if greatest == least:
            words = f"runs in training, p {least}"
        elif greatest is not None:
            words += f" and at most {greatest}"
        if "all_but" in limits:
            words += f", after all convolutions but {limits['all_but']}"
        return words

    def needs(self, limits: Limits) -> tuple[str, ...]:
        """Take the layers without one from the table of training mode."""
        return ("structure", "training_layers") if "all_but" in limits else ("structure",)

    def judge(self, limits: Limits, facts: Facts) -> Finding:
        """Look for dropouts that work, then at their rates, then at the layers without one."""
        finding, rates = _effect("dropout", facts), _structure(facts).rates
        faults = []
        for rate, uncertainty in sorted(set(rates)):
            low, high = limits.get("least", 0), limits.get("greatest", 1)
            if not low - uncertainty <= rate <= high + uncertainty:
                faults.append(f"p {rate:.3g}")
        if "all_but" in limits and facts.training_layers is not None:
            bare = [each.name for each in without_dropout(facts.training_layers, MIN_DROPOUT)]
            if len(bare) > limits["all_but"]:
                faults.append(f"none after {', '.join(bare)}")
        if {"least", "greatest"} & limits.keys():
            measured = any(uncertainty for _, uncertainty in rates)
            seen = " (measured, give or take 4 standard deviations)" if measured else ""
            finding = Finding(
                finding.found, f"{finding.how}; p as the operations say{seen}", finding.passed
            )
        if finding.passed and faults:
            return Finding(f"{finding.found}; {', '.join(faults)}", finding.how, passed=False)
        return finding

    def allows(self, limits: Limits) -> dict[str, Allowed]:
        """Every dropout has one of these rates."""
        return {"dropout p": (limits.get("least", MIN_DROPOUT), limits.get("greatest", 1))}


class Head(Kind):
    """What stands last, and whether there is global average pooling."""

    name = "head"
    keys: ClassVar = {"accept": some_of(tuple(HEADS)), "gap": FLAG}
    exactly_one: ClassVar = (("accept", "gap"),)

    def required(self, limits: Limits) -> str:
        """Return the accepted heads."""
        if limits.get("gap"):
            return "global average pooling, and behind it at most linear layers"
        return " or ".join(HEADS[name] for name in limits["accept"])

    def needs(self, limits: Limits) -> tuple[str, ...]:
        """See what is behind global average pooling in the layer table."""
        return ("structure", "layers") if limits.get("gap") else ("structure",)

    def judge(self, limits: Limits, facts: Facts) -> Finding:
        """Compare what stands last, and look at what makes one number of a map."""
        found = _structure(facts)
        names = {**HEADS, "other": "something else"}
        seen = " and ".join(names[name] for name in sorted(found.heads))
        how = f"last before log-softmax: {found.head_seen}"
        if not limits.get("gap"):
            return Finding(seen, how, found.heads <= set(limits["accept"]))
        each, last = ends(layers_of(facts))
        # A map may also be weighed by its largest values, as in convolutional block attention.
        pooled = last == {POOL} and each <= {POOL, "max pool"}
        after = f", behind {' and '.join(sorted(each)) or 'no pooling'}"
        return Finding(
            seen if found.heads == {"gap"} and pooled else f"{seen}{after}",
            f"{how}; what the graph's maps end in",
            pooled and found.heads in ({"gap"}, {"linear"}),
        )

    def allows(self, limits: Limits) -> dict[str, Allowed]:
        """Return the accepted heads."""
        return {} if limits.get("gap") else {"last layer": frozenset(limits["accept"])}


class EvaluationMode(Kind):
    """Whether an output depends on its image alone, of which every accuracy is a consequence."""

    name = "evaluation"

    def required(self, limits: Limits) -> str:
        """Return on what an output may depend."""
        return "each output depends on its image alone"

    def judge(self, limits: Limits, facts: Facts) -> Finding:
        """Say on what else it depends."""
        found = _structure(facts)
        return Finding(found.dependence or "it does", found.evaluated, not found.dependence)


def _structure(facts: Facts) -> Structure:
    assert facts.structure is not None
    return facts.structure


def _effect(name: str, facts: Facts) -> Finding:
    """Return what is found of batch norms or dropouts: whether they run, and matter."""
    structure = _structure(facts)
    each: Effect = structure.batch_norm if name == "batch norm" else structure.dropout
    where = "beside the path" if each.bypassed else "on every path"
    seen = f"{where} from images to outputs, with an effect of {100 * each.effect:.2g} %"
    return Finding(
        each.done if each.works or not each.count else f"{each.done}, {seen}",
        f"a training pass; {structure.changed[name]} must change the outputs by more than "
        f"{100 * each.least_effect:.1g} % of their deviation; it is {seen}",
        each.works,
    )
