"""What a notebook, a script and the command line call: train, audit, export, load.

Example:
    run = train("feather-8k", seed=0)
    audit("my_net.py:Net", contract="era-v3-s6")
    model = load_model("runs/feather-8k-s0-1")
"""

import contextlib
import dataclasses
import inspect
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from torch import nn

from .apart import is_network
from .audit import (
    Evidence,
    as_graph,
    audit_model,
    audit_run,
    audit_weights,
    run_network,
)
from .build import check_model
from .contract import Contract, load_contract
from .data import Split, normalise
from .device import pick_device
from .distributed import SINGLE_PROCESS, Group, refuse_idle_processes
from .errors import InputError
from .fresh import Fresh, fresh_networks
from .locate import describe
from .pretrained import find_pretrained
from .progress import OnBatch, OnEpoch, show
from .recipe import DEFAULT_RECIPE, NETWORK_RECIPE, Recipe, find_recipe
from .report import report
from .retrain import retrain as retrain_run
from .retrain import retrain_epochs as retrain_run_epochs
from .run import SOURCE, Run, create_run, open_run
from .source import module_source
from .splits import contract_split
from .train import check_recipe, export_network, first_network
from .train import train as train_run
from .verdict import Clause, Verdict
from .weights import load_weights, read_weights
from .workers import choose_workers, start_workers

if TYPE_CHECKING:
    import torch

Network = str | type[nn.Module]


def _find_contract(contract: str | Contract) -> Contract:
    return contract if isinstance(contract, Contract) else load_contract(contract)


def _locate(model: Network, folder: Path) -> tuple[str, str | None]:
    """Return MODULE:CLASS or FILE.py:CLASS of a network, and the source that a run must keep.

    A class that was defined in a notebook or script is written to `folder`."""
    if isinstance(model, str):
        return model, None
    if not (inspect.isclass(model) and issubclass(model, nn.Module)):
        raise InputError(
            f"model: got {model!r}, expected a torch.nn.Module class, or a text such as "
            "my_net.py:Net"
        )
    if model.__module__ != "__main__":
        return f"{model.__module__}:{model.__qualname__}", None
    source = module_source(model)
    (folder / SOURCE).write_text(source, encoding="utf-8")
    return f"{folder / SOURCE}:{model.__name__}", source


def start_run(
    recipe: str | Recipe | None,
    *,
    model: Network | None = None,
    contract: str | Contract | None = None,
    data: str | None = None,
    seed: int = 0,
    epochs: int | None = None,
    device: "torch.device",
    threads: int = 1,
    workers: int | None = None,
    out: str | None = None,
    command: str,
    group: Group = SINGLE_PROCESS,
    evidence: Evidence = "graph",
) -> Run | None:
    """Check a training's parts, try its network, and make its run folder.

    Takes what `train` takes. Where anything is wrong, nothing is left behind. Returns None in the
    processes of a group but the main one."""
    if recipe is None:
        recipe = DEFAULT_RECIPE if model is None else NETWORK_RECIPE
    chosen = recipe if isinstance(recipe, Recipe) else find_recipe(recipe)
    if seed < 0:
        raise InputError(f"seed: got {seed}, expected 0 or more")
    if epochs is not None and epochs != chosen.epochs:
        name = f"{chosen.name}-{epochs}-epoch{'' if epochs == 1 else 's'}"
        chosen = dataclasses.replace(chosen, name=name, epochs=epochs)
    choose_workers(workers, chosen, device)
    refuse_idle_processes(chosen.n_ghosts, group)
    if threads != 1 and chosen.n_ghosts > 1:
        raise InputError(
            f"threads: got {threads}, expected 1, as {chosen.name} has ghost batches",
            hint="give the number of workers instead",
        )
    held = _find_contract(contract or chosen.contract)
    split = contract_split(data, held)
    source = None
    with tempfile.TemporaryDirectory() as folder:
        path, arguments = chosen.model, chosen.model_args
        if model is not None:
            (path, source), arguments = _locate(model, Path(folder)), {}
        tried = dataclasses.replace(chosen, model=path, model_args=arguments)
        graph = export_network(tried, split, seed) if evidence == "graph" else None
        network = first_network(tried, split, seed, graph)
        check_recipe(tried, split, network)
    if model is not None:  # tables and pictures name the network, not the recipe that trains it
        name = describe(network).rpartition(":")[2]
        kept = f"{SOURCE}:{name}" if source is not None else path
        chosen = dataclasses.replace(tried, name=name, model=kept)
    if not group.is_main:
        return None
    return create_run(out, chosen, held, split, seed, device, command, threads, source, graph)


def judge(run: Run, data: str | None = None, device: "torch.device | None" = None) -> Verdict:
    """Audit a finished run, and write its verdict, pictures and model card into its folder.

    A run that was trained without a graph is watched, and its verdict says so."""
    run.refuse_pretrained()
    split = run.load_split(data)
    evidence: Evidence = "watched" if run.needs_code else "graph"
    with run.lock():
        verdict, result = audit_run(run, split, device=device, evidence=evidence)
        run.write_json("verdict.json", verdict.to_dict())
        if result is not None:
            report(run, result, split, verdict.to_dict())
    return verdict


def train(
    recipe: str | Recipe | None = None,
    *,
    model: Network | None = None,
    contract: str | Contract | None = None,
    data: str | None = None,
    seed: int | None = None,
    epochs: int | None = None,
    device: str = "auto",
    threads: int | None = None,
    workers: int | None = None,
    out: str | None = None,
    resume: str | Path | Run | None = None,
    evidence: Evidence = "graph",
    keep_states: bool = False,
    on_epoch: Callable[[dict[str, Any]], object] | None = None,
) -> Run:
    """Train a network under a contract, audit it, and report it.

    A notebook shows a table and a bar below the cell, a terminal a line for each epoch on stderr.
    An interrupt (Ctrl-C, or a notebook's stop button) leaves a run that `resume` finishes to the
    same bits.

    Parameters
    ----------
    recipe
        How to train: a preset's name or a Recipe. Default: quick, or feather-20k with a `model`.
    model
        The network, instead of the recipe's own: MODULE:CLASS, FILE.py:CLASS, or a torch.nn.Module
        class. The source of a class from a notebook's cell is kept in the run folder.
    contract
        What must hold: a built-in contract's name, a TOML file, or a Contract. Default: the
        recipe's.
    data
        Where the data set is, a folder or file in one of the formats of the guide "Your data".
        Default: MNIST.
    seed
        Seed of the initial weights and of every random draw. Default: 0.
    epochs
        Number of epochs, instead of the recipe's.
    device
        cpu, cuda, mps, or auto, which takes the first GPU there is.
    threads
        CPU threads of a training step. Default: 1, which other busy programs slow down least. A
        recipe with ghost batches takes no other number.
    workers
        Processes on this machine that share the ghost batches of a step. Default: as many as there
        are CPU cores and ghost batches. The result is the same to the bit for every number.
    out
        The run folder, which must not exist yet. Default: runs/NAME-sSEED-N.
    resume
        A run folder or Run whose training is to be finished; it keeps all of the above, except that
        `workers` may change.
    evidence
        graph: a network of your own is exported once, in a process apart, and its graph is trained
        and judged. watched: its code runs here, for a network that can't be exported; the verdict
        says so.
    keep_states
        Keep the state after each epoch, so that `audit` can train single epochs again.
    on_epoch
        Called after each epoch with its row of metrics.jsonl: epoch, seconds, lr, train_loss,
        val_loss, val_correct, val_total. The epoch is saved before, so that `resume` goes on after
        it if the function raises.

    Returns
    -------
    Run
        The finished run; `run.verdict` says whether the contract holds.

    Raises
    ------
    InputError
        Where something is wrong with the input; no run folder is then made.
    """
    where = pick_device(device)
    if resume is not None:
        given = {
            "recipe": recipe,
            "model": model,
            "contract": contract,
            "seed": seed,
            "epochs": epochs,
            "threads": threads,
            "out": out,
        }
        refuse_with_resume(given)
        run = load_run(resume)
    else:
        started = start_run(
            recipe,
            model=model,
            contract=contract,
            data=data,
            seed=0 if seed is None else seed,
            epochs=epochs,
            device=where,
            threads=1 if threads is None else threads,
            workers=workers,
            out=out,
            command="featherweight.train(...)",
            evidence=evidence,
        )
        assert started is not None  # there is no group
        run = started
    finish_run(
        run,
        where,
        data,
        lambda n_images: show(run, n_images, Console(stderr=True, highlight=False)),
        on_epoch=on_epoch,
        workers=workers,
        keep_states=keep_states,
    )
    judge(run, data, where)
    return run


def refuse_with_resume(given: dict[str, Any]) -> None:
    """Raise InputError where anything but None is given beside a run to resume."""
    if named := [key for key, value in given.items() if value is not None]:
        raise InputError(
            f"resume with {named[0]}: a run keeps its own", hint="give the run folder alone"
        )


def finish_run(
    run: Run,
    device: "torch.device",
    data: str | None,
    progress: Callable[[int], Any],
    group: Group = SINGLE_PROCESS,
    on_epoch: Callable[[dict[str, Any]], object] | None = None,
    workers: int | None = None,
    keep_states: bool = False,
) -> None:
    """Train a run to its last epoch; an interrupt gets a note of how to resume.

    `progress`, given the number of training images, returns the context that gives the functions
    that show an epoch and a batch. `on_epoch` is the caller's own function for an epoch, `workers`
    the number of processes on this machine that train, unless there is a group, and with
    `keep_states` the state after each epoch is kept. Raises InputError if another process trains
    the run."""
    run.refuse_pretrained()
    split = run.load_split(data)
    n_workers = choose_workers(workers, run.recipe, device) if group.size == 1 else 1
    show_epoch: OnEpoch
    on_batch: OnBatch

    def after_epoch(row: dict[str, Any]) -> None:
        show_epoch(row)
        if on_epoch is not None:
            on_epoch(dict(row))  # a copy: what the function does to it stays outside of the log

    try:
        with (
            run.lock() if group.is_main else contextlib.nullcontext(),
            start_workers(run, split, n_workers) as local,
            progress(run.recipe.n_images(len(split.train))) as (show_epoch, on_batch),
        ):
            together = local if group.size == 1 else group
            train_run(run, split, device, after_epoch, on_batch, together, keep_states)
    except KeyboardInterrupt as interrupt:
        interrupt.add_note(f"resume with featherweight.train(resume={str(run.path)!r})")
        raise


def audit(
    target: str | Path | Run | nn.Module | type[nn.Module],
    *,
    contract: str | Contract | None = None,
    data: str | None = None,
    weights: str | Path | None = None,
    mean: float | None = None,
    std: float | None = None,
    evidence: Evidence = "graph",
    quick: bool = False,
    retrain: bool = False,
    retrain_epochs: int | None = None,
    workers: int | None = None,
) -> Verdict:
    """Judge a run or a network against a contract, trusting no log.

    A network without a run is judged by its structure, and with `weights`, or as an instance that
    is given with `weights` loaded, also by its accuracy; the clauses that need a run are then not
    judged.

    Parameters
    ----------
    target
        A run or its folder; the name of a pretrained network, which is judged like a network with
        weights; or a network: MODULE:CLASS, FILE.py:CLASS, a torch.nn.Module class or
        instance.
    contract
        A built-in contract's name, a TOML file, or a Contract. Default: the run's own; of a
        network, era-v3-s6.
    data
        Where the images are now, a folder or file.
    weights
        A state dict that was trained elsewhere, .pth, .pt or .safetensors.
    mean, std
        How the images in [0, 1] were normalised where the weights were trained. Default: the mean
        and standard deviation of the training images.
    evidence
        graph: the network is exported once, its code in a process apart, and its graph is judged.
        watched: its code runs here and is watched, for a network that can't be exported; the
        verdict says so.
    quick
        With `watched`: look for hidden weights in 64 images instead of all validation images.
    retrain
        Train a run again from its recipe, seed and images. That its weights come out to the bit is
        the only evidence that this training made them.
    retrain_epochs
        Train so many epochs of a run again instead, drawn at random, each from the state before it.
    workers
        Processes that train again; every number gives the same bits. Default: as for `train`.

    Raises
    ------
    InputError
        Where the target can't be built or exported, does not run, or does not match the weights.
    """
    if isinstance(target, (str, Path)) and not is_network(str(target)):
        target = load_run(target)
    if isinstance(target, Run):
        given = {"weights": weights, "mean": mean, "std": std, "quick": quick or None}
        if named := [key for key, value in given.items() if value is not None]:
            raise InputError(
                f"{named[0]} with {target.path}: expected a network, MODULE:CLASS or "
                "FILE.py:CLASS; a run is audited with its own weights, on every image"
            )
        split, held = target.load_split(data), _find_contract(contract or target.contract)
        # What ships without the state of its training is judged like weights from elsewhere.
        if target.pretrained or ("library_name" in target.config and not target.has_state):
            if retrain or retrain_epochs:
                raise InputError(
                    f"retrain with {target.path}: expected a run with the state of its training"
                )
            model = run_network(target, split, evidence)
            target.load_weights(model)
            path, arguments = target.model_path, target.recipe.model_args
            fresh_of_run = fresh_networks(path, arguments, split, evidence == "watched")
            return audit_weights(model, split, held, evidence=evidence, fresh=fresh_of_run)[0]
        again = _train_again(target, split, retrain, retrain_epochs, workers)
        return audit_run(target, split, held, evidence=evidence, retrained=again)[0]
    if retrain or retrain_epochs:
        raise InputError(f"retrain with {target}: expected a run")
    if (mean is None) != (std is None) or (mean is not None and weights is None):
        raise InputError(
            f"mean {mean}, std {std}, weights {weights}: expected mean and std both, and with "
            "weights, or neither",
            hint="mean 0.1307, std 0.3081 are those of all 60,000 MNIST images",
        )
    mean_std = None if mean is None or std is None else (mean, std)
    if mean_std is not None and not (
        abs(mean_std[0]) < float("inf") and 0 < mean_std[1] < float("inf")
    ):
        raise InputError(f"mean {mean}, std {std}: expected finite numbers, the second above 0")
    held = _find_contract(contract or "era-v3-s6")
    split = contract_split(data, held)
    state = None if weights is None else read_weights(str(weights))
    with tempfile.TemporaryDirectory() as folder:
        fresh: Fresh | None = None  # of an instance, nothing says how it was built
        if isinstance(target, nn.Module):
            network = as_graph(target, split.shape, evidence)
        else:
            path = _locate(target, Path(folder))[0] if isinstance(target, type) else str(target)
            fresh = fresh_networks(path, {}, split, evidence == "watched")
            network = fresh(0)
        if state is not None:
            try:
                load_weights(network, state)
            except ValueError as error:
                raise InputError(f"weights {weights}: not those of {target}: {error}") from error
        check_model(
            network,
            normalise(split.train.pixels[:8], mean_std or split.mean_std),
            split.num_classes,
        )
        if state is None:
            return audit_model(network, split, held, not quick, evidence, fresh)
        return audit_weights(network, split, held, mean_std, not quick, evidence, fresh)[0]


def _train_again(
    run: Run, split: Split, retrain: bool, epochs: int | None, workers: int | None
) -> Clause | None:
    """Train a run or some of its epochs again, if that is asked for; return the clause."""
    if not retrain and epochs is None:
        return None
    if retrain and epochs is not None:
        raise InputError(f"retrain with retrain epochs {epochs}: expected one of them")
    with show(
        run, run.recipe.n_images(len(split.train)), Console(stderr=True, highlight=False)
    ) as report:
        if epochs is not None:
            return retrain_run_epochs(run, split, epochs, workers, report)
        return retrain_run(run, split, workers, report)


def load_run(run: str | Path | Run) -> Run:
    """Return the run in a folder, or a pretrained network as one, by its name.

    Raises InputError where there is none."""
    return run if isinstance(run, Run) else open_run(run)


def load_model(run: str | Path | Run) -> nn.Module:
    """Return the network of a finished run or of a pretrained one's name, in evaluation mode.

    It takes images (n, channels, height, width), normalised by the run's mean and standard
    deviation, and returns logits or log-probabilities (n, classes)."""
    return load_run(run).load_model()


def from_pretrained(folder: str | Path, *, trust_code: bool = False) -> nn.Module:
    """Return the network of a folder from a model hub, with its weights and in evaluation mode.

    It returns the same logits as the run's, bit for bit, for images that are normalised as those
    of `load_model`; `load_run(folder).config["data"]` has their mean and standard deviation.
    Nothing is unpickled.

    Parameters
    ----------
    folder
        What `export --format hub` wrote, any run folder, or the name of a pretrained network.
    trust_code
        Whether to run the folder's `model.py`, which defines a network that is not this package's.
        It may do anything that you may do: read it first.

    Raises
    ------
    InputError
        Where the folder holds no network, is damaged or incomplete, or has code that is not
        trusted.
    """
    shipped = find_pretrained(folder) if isinstance(folder, str) else None
    path = shipped or Path(folder)
    for name in ("config.json", "model.safetensors"):
        if not (path / name).is_file():
            raise InputError(
                f"{path}: got no {name} in it, expected a folder that "
                "`featherweight export RUN --format hub` wrote"
            )
    run = open_run(path)
    if run.needs_code and not trust_code:
        raise InputError(
            f"{path}: its network is {run.recipe.model}, code from outside of this package",
            hint=f"read it; if you trust it: from_pretrained({str(folder)!r}, trust_code=True)",
        )
    return run.load_model()


def export_run(
    run: str | Path | Run,
    format: Literal["onnx", "onnx-int8", "c", "html", "hub"] = "onnx",
    *,
    bits: Literal[2, 4, 8] | None = None,
    data: str | None = None,
) -> Path:
    """Write a finished run as a file that needs no PyTorch, checked on every validation image.

    Parameters
    ----------
    run
        A finished run or its folder, into which the file is written; or a pretrained network's
        name, whose file is written to the working directory.
    format
        onnx: 32-bit floats; onnx-int8: weights and activations of 8 bits; c: a folder of C99 for a
        microcontroller, in integers; html: one file that reads drawings and pictures in a browser,
        in integers; hub: a folder for a model hub, RUN/hub.
    bits
        Bits of a weight, in C or HTML. Default: what the run was trained for, else 8.
    data
        Where the run's data set is now.

    Returns
    -------
    Path
        The file, or for C and a hub the folder.
    """
    opened = load_run(run)
    split = opened.load_split(data)
    if format == "c":
        from .export.c import export_c

        return export_c(opened, split, bits or opened.recipe.weight_bits or 8).path
    if format == "html":
        from .export.html import export_html

        return export_html(opened, split, bits or opened.recipe.weight_bits or 8).path
    if format == "hub":
        from .export.hub import export_hub

        return export_hub(opened, split).path
    from .export.onnx import export_onnx

    return export_onnx(opened, split, int8=format == "onnx-int8").path
