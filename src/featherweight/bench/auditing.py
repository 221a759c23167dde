"""Compare judging a network's graph with watching the module, and training the one with the other.

audits = bench_audits("feather-20k", rounds=5)      # whole processes, in pairs
steps = bench_graph_steps("feather-20k", split)     # training steps, in turn
"""

import copy
import os
import subprocess
import sys
import time
from typing import get_args

import torch

from ..audit import Evidence
from ..build import build
from ..capture import capture
from ..data import Split
from ..device import cpu_threads, seed_everything
from ..errors import InputError
from ..recipe import find_recipe
from ..train import training_passes
from ..trainer import Trainer
from .training import Ratio, ratio_of

N_STEPS = 40  # of a round of training
ROUNDS = 8


def bench_audits(target: str, rounds: int = 5) -> Ratio:
    """Return the time of an audit of the graph, divided by that of watching all images.

    Each is a whole process, `featherweight audit TARGET`. Raises InputError if one fails."""
    seconds: dict[str, list[float]] = {evidence: [] for evidence in get_args(Evidence)}
    for _ in range(rounds):
        for evidence, taken in seconds.items():
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-m", "featherweight", "audit", target, "--evidence", evidence],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
                capture_output=True,
                text=True,
                check=False,
            )
            taken.append(time.perf_counter() - start)
            if done.returncode > 1:
                raise InputError(f"audit {target}: {done.stderr.strip()}")
    return ratio_of(seconds["graph"], seconds["watched"])


def bench_graph_steps(name: str, split: Split) -> tuple[Ratio, bool]:
    """Compare training a recipe's network as a graph with training the module, on one thread.

    Returns the time of a step with the graph divided by that with the module, and whether both
    have the same weights, to the bit, after all steps."""
    recipe = find_recipe(name)
    seed_everything(0, -1)
    module = build(recipe.model, recipe.model_args, split.num_classes, split.shape)
    graph = capture(copy.deepcopy(module), training_passes(recipe, len(split.train), split.shape))
    trainers = [Trainer(recipe, model, split.train, split.mean_std) for model in (graph, module)]
    seconds: list[list[float]] = [[], []]
    with cpu_threads(1):
        for round_ in range(ROUNDS):
            for trainer, taken in zip(trainers, seconds, strict=True):
                generator = seed_everything(0, round_)
                steps = trainer.steps(0, generator)
                next(steps)  # which warms up
                start = time.perf_counter()
                for _ in range(N_STEPS):
                    next(steps)
                taken.append(time.perf_counter() - start)
    same = all(
        torch.equal(one, other)
        for one, other in zip(graph.parameters(), module.parameters(), strict=True)
    )
    return ratio_of(*seconds), same
