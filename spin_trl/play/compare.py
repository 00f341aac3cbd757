"""Plays several objectives side by side: the same data, start, seeds and number of gradient steps, one run directory an arm.

One arm of a seed makes what all share: θ_0 (where it is built from scratch), its figures, and its generations. The
supervised arm is the first run's own baseline. Every arm is a process of its own, which continues where it was interrupted.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from typing import Any

from rich.console import Console

from ..config.arguments import without_options
from ..config.checks import as_mapping
from ..config.loop import PER_ITERATION
from ..config.recipe import Recipe
from ..errors import LaunchError, RecipeError, RunDirectoryError
from ..evaluation.summary import ByPrompt, difference
from ..files import home_expanded, write_json, write_text
from ..objectives.registry import check_losses, own_settings, use_beta
from ..report import terminal
from ..report.comparison import AGAINST, ArmFigures, comparison_table, plot_comparison, summarise_cells
from ..report.record import read_record, read_stage
from ..run.directory import RunDirectory
from ..run.journal import MADE, Journal, Step, newest
from ..run.ownership import COMPARISON, Ownership
from ..run.recipe import read_recipe
from ..run.settings import freeze, renew
from ..run.stage import START, Stage, arm_name
from .processes import Launches
from .shared_start import share_start

OUTPUT = "output.txt"
"""What an arm prints, in its run directory."""

SEED_DISTANCE = 1000
"""Between the seeds of a comparison: an iteration's seed is its run's plus the iteration."""

OF_AN_ARM = frozenset(
    {
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "learning_rate",
        "lr_scheduler_kwargs",
        "lr_scheduler_type",
        "max_grad_norm",
        "optim",
        "optim_args",
        "warmup_ratio",
        "warmup_steps",
        "weight_decay",
    }
)
"""Settings that an arm may have for itself, beside those of its losses: how it steps. The rest all arms share."""


@dataclass(frozen=True)
class Arm:
    """One of the compared objectives.

    Attributes:
        name: as it was given: `space`, `space+0.1*sft`, `sft`, `sft-smoothing-0.1`.
        losses: weights by `loss_type`; empty for a supervised arm.
        label_smoothing: of a supervised arm.
    """

    name: str
    losses: Mapping[str, float] = field(default_factory=dict)
    label_smoothing: float | None = None

    @classmethod
    def parse(cls, name: str) -> Arm:
        """An arm from its name.

        Raises:
            RecipeError: the name is none.
        """
        if name == "sft":
            return cls(name, label_smoothing=0.0)
        if name.startswith("sft-smoothing-"):
            label_smoothing = _weight_of_arm(name.removeprefix("sft-smoothing-"), name)
            return cls(arm_name(label_smoothing), label_smoothing=label_smoothing)
        losses: dict[str, float] = {}
        for term in name.split("+"):
            weight, star, loss = term.rpartition("*")
            losses[loss.strip()] = _weight_of_arm(weight, name) if star else 1.0
        return cls(name, losses)


def _weight_of_arm(text: str, arm: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise RecipeError(
            f"The arm {arm!r} has the number {text!r}; arms look like `space` or `space+0.1*sft`."
        ) from None


class Comparison:
    """A comparison of objectives on one recipe.

    Args:
        source: the recipe.
        overrides: command-line settings for all arms.
        arms: names of losses, sums of them, and supervised arms.
        seeds: how many; the recipe's, and others far from it.
        devices: arms that are played at the same time; on GPUs, each on its own.
        arm_settings: further settings by arm, like a learning rate.

    Raises:
        RecipeError: the arms or their settings can't be compared.
    """

    def __init__(
        self,
        source: str,
        overrides: Sequence[str],
        arms: Sequence[str],
        seeds: int = 1,
        devices: int = 1,
        arm_settings: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.source, self.overrides, self.devices = source, list(overrides), devices
        self.arm_settings = dict(arm_settings or {})
        everyone = list({arm.name: arm for arm in map(Arm.parse, arms)}.values())
        self.arms = [arm for arm in everyone if arm.losses]
        self.supervised = [arm for arm in everyone if not arm.losses]
        if not self.arms:
            raise RecipeError("A comparison needs at least one self-play arm: `sft` takes as many steps as that does.")
        if seeds < 1 or devices < 1:
            raise RecipeError("`--seeds` and `--devices` are at least 1.")
        for arm in self.arms:
            check_losses(arm.losses)
        self._launches = Launches()
        self._check_arm_settings()
        self.base = self._read(self.arms[0], self.overrides)
        self.folder = home_expanded(self.base.play.run_dir or Path("runs") / f"{self.base.name}-compare")
        self.ownership = Ownership(self.folder, COMPARISON)
        if (self.folder / "journal.jsonl").exists():
            raise RecipeError(f"{self.folder} holds a run. Give the comparison a `--run_dir` of its own.")
        self.seeds = [self.base.args.seed + SEED_DISTANCE * number for number in range(seeds)]
        self.metric = self.base.play.metric_for_best_iteration
        self.num_iterations = self.base.play.num_iterations
        self.recipes = {(arm.name, seed): self._recipe(arm, seed) for seed in self.seeds for arm in self.arms}

    def _check_arm_settings(self) -> None:
        by_name = {arm.name: arm for arm in self.arms}
        for name, settings in self.arm_settings.items():
            if name not in by_name:
                raise RecipeError(f"`--arm_settings` names {name!r}, but the self-play arms are {', '.join(by_name)}.")
            losses = by_name[name].losses
            own = own_settings(losses) | ({"beta"} if use_beta(losses) else set())
            other = [setting for setting in settings if setting not in OF_AN_ARM | own]
            if other:
                raise RecipeError(
                    f"`--arm_settings` gives {name!r} a {other[0]!r} of its own. An arm may have its own "
                    f"{', '.join(sorted(OF_AN_ARM | own))}; all else is the same for all arms."
                )
            stepping = [setting for setting in settings if setting not in own | {"learning_rate"}]
            if self.supervised and name == self.arms[0].name and stepping:
                raise RecipeError(
                    f"`--arm_settings` gives {name!r} a {stepping[0]!r} of its own, but the supervised arms "
                    f"({', '.join(arm.name for arm in self.supervised)}) step as the first arm does. Put another arm first."
                )

    def _read(self, arm: Arm, arguments: Sequence[str]) -> Recipe:
        return read_recipe(self.source, arguments, losses=arm.losses)

    def _recipe(self, arm: Arm, seed: int) -> Recipe:
        """The recipe of an arm with a seed; the first arm has the supervised arms as its baseline."""
        own = self.arm_settings.get(arm.name, {})
        arguments = without_options(self.overrides, own)
        for name, value in own.items():
            several = isinstance(value, list) and name not in PER_ITERATION
            values = map(str, value) if several else [value if isinstance(value, str) else json.dumps(value)]
            arguments += [f"--{name}", *values]
        arguments += ["--seed", str(seed), "--run_dir", str(self._folder(arm, seed))]
        recipe = self._read(arm, arguments)
        dropped = [
            kind
            for kind in ("empty", "truncated", "identical")
            if getattr(recipe.args, f"{kind}_generations") == "drop"
        ]
        if dropped:
            raise RecipeError(
                f"`{dropped[0]}_generations: drop` would give the arms different numbers of gradient steps. Keep them."
            )
        # What is compared has played as many iterations, however they went.
        recipe.play.stop_at_plateau, recipe.play.degeneration_stop = False, {}
        recipe.play.on_regression, recipe.play.patience = "continue", None
        recipe.args.push_to_hub = False  # all arms would go to one repository
        smoothing = [one.label_smoothing for one in self.supervised if one.label_smoothing is not None]
        has_baseline = bool(smoothing) and arm == self.arms[0]
        recipe.play.baseline = "sft" if has_baseline else None
        recipe.play.baseline_label_smoothing = smoothing if has_baseline else [0.0]
        if recipe.play.baseline_learning_rate is None and "learning_rate" in own:
            # What all arms were given, not what the first one has for itself.
            lists = as_mapping("per_iteration", self.base.play.per_iteration) or {}
            recipe.play.baseline_learning_rate = lists.get("learning_rate", [self.base.args.learning_rate])[0]
        return recipe

    def _folder(self, arm: Arm, seed: int) -> Path:
        return self.ownership.place(f"seed-{seed}") / arm.name.replace("*", "x")

    # ---- playing ------------------------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Play what is not done yet, then draw the table and the plot.

        Returns:
            What is written to `comparison.json`.

        Raises:
            LaunchError: an arm failed; the others are played and shown all the same.
        """
        console = terminal.console()
        self.ownership.claim(self.base.file, self._written_by_0_1_0())
        failed: list[Path] = []
        for seed in self.seeds:
            failed += self._play_seed(seed, console)
        result = self._show(console)
        if failed:
            raise LaunchError(
                f"These arms failed, and their output says why: {', '.join(map(str, dict.fromkeys(failed)))}. The same "
                "command tries again."
            )
        return result

    def _written_by_0_1_0(self) -> list[str]:
        """Entries that version 0.1.0, which had no marker, has written into the folder; none if it holds no comparison."""
        seeds = {path.parent.parent.name for path in self.folder.glob("seed-*/*/journal.jsonl")}
        files = [name for name in ("table.txt", "plot.png", "comparison.json") if (self.folder / name).is_file()]
        return [*sorted(seeds), *files] if seeds else []

    def _play_seed(self, seed: int, console: Console) -> list[Path]:
        """Play all arms of a seed. Returns the output of those that failed."""
        self.ownership.own(f"seed-{seed}")
        for arm in self.arms:
            directory = RunDirectory(self._folder(arm, seed))
            existing = self.base.play.existing_run
            if existing == "fail" and directory.ownership.holds_run() and directory.recipe.exists():
                raise RunDirectoryError(f"{directory.path} holds a run already, and `existing_run` is `fail`.")
            directory.ownership.claim()
            if existing == "overwrite":
                directory.clear()
            settings = self.recipes[arm.name, seed].settings()
            freeze(directory, settings)
            renew(directory, settings)
        # Whichever arm has the start already; of a new comparison the first.
        leader = next((arm for arm in self.arms if self._has_start(arm, seed)), self.arms[0])
        free: Queue[int] = Queue()
        for device in range(self.devices):
            free.put(device)
        with ThreadPoolExecutor(self.devices) as pool:
            try:
                first = pool.submit(self._play_arm, leader, seed, free, console)
                followers = [arm for arm in self.arms if arm != leader]
                others = [pool.submit(self._follow, leader, first, arm, seed, free, console) for arm in followers]
                return [path for future in (first, *others) if (path := future.result()) is not None]
            except BaseException:
                self._launches.stop()
                raise

    def _has_start(self, arm: Arm, seed: int) -> bool:
        journal = Journal(RunDirectory(self._folder(arm, seed)).journal)
        return journal.find(Step.GENERATE, Stage.of(0)) is not None

    def _follow(
        self, leader: Arm, first: Future, arm: Arm, seed: int, free: Queue[int], console: Console
    ) -> Path | None:
        """Play an arm when the leading one has made what they share."""
        source, directory = (RunDirectory(self._folder(one, seed)) for one in (leader, arm))
        while not self._has_start(leader, seed):
            if first.done():
                return _output(source)
            time.sleep(0.5)
        share_start(source, directory)
        return self._play_arm(arm, seed, free, console)

    def _play_arm(self, arm: Arm, seed: int, free: Queue[int], console: Console) -> Path | None:
        """Play an arm on a device that is free. Returns its output if it failed."""
        directory = RunDirectory(self._folder(arm, seed))
        if self._is_finished(arm, directory):
            return None
        device = free.get()
        try:
            console.print(f"seed {seed}: {arm.name} ...", highlight=False)
            alone = None if self.devices == 1 else device
            directory.own(OUTPUT)
            failed = self._launches.run(["run", str(directory.path)], _output(directory), alone)
            return _output(directory) if failed else None
        finally:
            free.put(device)

    def _is_finished(self, arm: Arm, directory: RunDirectory) -> bool:
        last = self.num_iterations - 1
        stages = [Stage.of(last)]
        if arm == self.arms[0]:
            stages += [Stage.of(last, one.name) for one in self.supervised]
        if not directory.best.exists():
            return False
        record = read_record(directory)
        return bool(record.stopped) or all(newest(record.journal, Step.EVALUATE, stage) for stage in stages)

    @staticmethod
    def _stage_of(arm: Arm, iteration: int) -> Stage:
        return Stage.of(iteration, arm_name(arm.label_smoothing or 0.0))

    def _against(self, arm: Arm, iteration: int, seed: int) -> ByPrompt | None:
        """What the first supervised arm did on every prompt, for a self-play arm to be held against."""
        if not arm.losses or not self.supervised:
            return None
        directory = RunDirectory(self._folder(self.arms[0], seed))
        return read_stage(directory, self._stage_of(self.supervised[0], iteration)).values

    # ---- showing ------------------------------------------------------------------------------------------------------

    def _show(self, console: Console) -> dict[str, Any]:
        cells = [cell for seed in self.seeds for cell in self._cells(seed)]
        summary = summarise_cells(cells, len(self.seeds))
        baseline = self.supervised[0].name if self.supervised else None
        table = comparison_table(summary, self.metric, len(self.seeds), console.width, baseline)
        console.print(table)
        for seed in self.seeds:
            for arm in self.arms:
                stopped = read_record(RunDirectory(self._folder(arm, seed))).stopped
                if stopped:
                    text = f"{arm.name}, seed {seed}: {stopped['reason']}"
                    console.print(text, style="bold", highlight=False, soft_wrap=True)
        wide = comparison_table(summary, self.metric, len(self.seeds), None, baseline)
        write_text(self.ownership.own("table.txt"), _printed(wide))
        plot_comparison(self.ownership.own("plot.png"), summary, self.metric, baseline)
        result = {
            "recipe": self.source,
            "arms": [arm.name for arm in (*self.arms, *self.supervised)],
            "seeds": self.seeds,
            "figures": summary,
        }
        write_json(self.ownership.own("comparison.json"), result)
        console.print(f"Table, plot and figures: {self.folder}", highlight=False)
        return result

    def _cells(self, seed: int) -> list[ArmFigures]:
        """What was measured with a seed, by arm and iteration."""
        cells: list[ArmFigures] = []
        for arm in (*self.arms, *self.supervised):
            owner = arm if arm.losses else self.arms[0]
            directory = RunDirectory(self._folder(owner, seed))
            for t in range(self.num_iterations):
                stage = Stage.of(t) if arm.losses else self._stage_of(arm, t)
                cells += _figures_of_arm(directory, stage, arm.name, t, seed, self._against(arm, t, seed))
        return [*_figures_of_arm(RunDirectory(self._folder(self.arms[0], seed)), START, START, -1, seed), *cells]


def _figures_of_arm(
    directory: RunDirectory, stage: Stage, arm: str, iteration: int, seed: int, against: ByPrompt | None = None
) -> list[ArmFigures]:
    """What was measured at a stage; with its differences from what the supervised arm did, prompt by prompt."""
    entries = [entry for entry in Journal(directory.journal).entries() if entry["stage"] == stage]
    if not newest(entries, Step.EVALUATE):
        return []
    measured = read_stage(directory, stage)
    figures = dict(measured.figures)
    for name in measured.values:
        found = difference(name, measured.values, against or {})
        if found is not None:
            name += AGAINST
            figures |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    entries = [entry for entry in entries if entry["phase"] in MADE]
    figures["seconds"] = sum(entry.get("seconds", 0.0) for entry in entries)
    figures["generated_tokens"] = float(sum(entry.get("tokens", 0) for entry in entries))
    figures["steps"] = float(sum(entry.get("steps", 0) for entry in entries))
    return [ArmFigures(arm, iteration, seed, figures)]


def _output(directory: RunDirectory) -> Path:
    return directory.ownership.place(OUTPUT)


def _printed(table: Any) -> str:
    """The whole table as text, however wide it is."""
    width = terminal.console(width=10_000).measure(table).maximum
    file = io.StringIO()
    terminal.console(file, width).print(table)
    return file.getvalue()
