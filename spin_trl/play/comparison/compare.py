"""Plays several objectives on the same data, start, seeds and number of gradient steps, with a run directory per arm.

Supervised arms may have the first arm's compute instead of its steps (`baseline_equal`).

For each seed, one arm produces what all arms share: θ_0 (if it is built from scratch), its figures, and its generations. The
supervised arm is the baseline of the first run. DPO on top is a stage of the run whose model it trains. Every run has its
own process, which resumes where it was interrupted.
"""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from queue import Queue
from typing import Any

from rich.table import Table

from ...config.arguments import without_options
from ...config.dpo_on_top import against_dpo
from ...config.loop import PER_ITERATION, iteration_settings
from ...config.recipe import Recipe
from ...config.review import WAIT, WARN
from ...config.server import RELOAD_LORA, SERVER
from ...config.traits import OF_AN_ARM
from ...errors import DivergedError, LaunchError, RecipeError, refuse_unplayable, visible
from ...files import home_expanded, write_json, write_text
from ...objectives.registry import check_losses, own_settings, use_beta
from ...report import terminal
from ...report.comparison import (
    AGAINST,
    FROM_DPO,
    ArmFigures,
    ComparedWith,
    EarlyEnd,
    Summary,
    add_sums,
    comparison_table,
    cost_table,
    plot_comparison,
    summarise_cells,
    table_of_test_set,
)
from ...report.record import read_record, read_stage
from ...report.supervised import best_sft_in_words, learning_rates, length_in_words, untuned_in_words
from ...run.directory import RunDirectory
from ...run.journal import Journal, Step, diverged, end_of_arm, newest
from ...run.marker import COMPARISON
from ...run.ownership import Ownership
from ...run.recipe import read_recipe
from ...run.run import against_arms
from ...run.settings import freeze, renew
from ...run.stage import BEST_SFT, DFT, SFT, START, Stage, smoothing_of_arm
from ...run.trust import check_trust_of_recipe
from ..gate import finalists
from .arms import Arm, Launches, share_start
from .compare_dpo import ask_for_dpo, check_chains, check_equal_dpo
from .compare_rows import PlayedArm, dpo_arms_in_words, figures_after_dpo, figures_of_arm, figures_on_test

OUTPUT = "output.txt"
"""The file in the run directory that collects an arm's output."""

SEED_DISTANCE = 1000
"""Distance between a comparison's seeds, so that they stay apart: an iteration's seed is the run's seed plus its number."""


class Comparison:
    """A comparison of several objectives with one recipe.

    Args:
        source: the recipe.
        overrides: command-line settings for all arms.
        arms: names of losses, weighted sums of losses, supervised arms, and chains that end with DPO (`sigmoid > dpo`).
        seeds: number of seeds: the recipe's own, and others far from it.
        devices: number of arms that run at the same time, each on its own GPU if there are GPUs.
        arm_settings: settings of individual arms, such as a learning rate.
        trust_run: whether code named by a run directory may run.

    Raises:
        RecipeError: if the arms or their settings can't be compared.
    """

    def __init__(
        self,
        source: str,
        overrides: Sequence[str],
        arms: Sequence[str],
        seeds: int = 1,
        devices: int = 1,
        arm_settings: Mapping[str, Mapping[str, Any]] | None = None,
        trust_run: bool = False,
    ) -> None:
        self.source, self.overrides, self.devices = source, list(overrides), devices
        self.arm_settings = dict(arm_settings or {})
        given, everyone = {name: Arm.parse(name) for name in arms}, dict[tuple[str, bool], Arm]()
        for arm in given.values():
            everyone.setdefault(arm.key, arm)
        self.arms = list({arm.self_play: arm.before_dpo() for arm in everyone.values() if arm.losses}.values())
        self.with_dpo = [arm for arm in everyone.values() if arm.has_dpo]
        supervised = [arm for arm in everyone.values() if not arm.losses and not arm.has_dpo]
        # The first one is compared with at every iteration, which the arm from the base does not have.
        self.supervised = sorted(supervised, key=lambda arm: arm.name == BEST_SFT)
        if not self.arms:
            raise RecipeError("A comparison needs at least one self-play arm: it sets the number of steps of `sft`.")
        if seeds < 1 or devices < 1:
            raise RecipeError("`--seeds` and `--devices` must be at least 1.")
        for arm in self.arms:
            check_losses(arm.losses)
        self._launches, self._console = Launches(), terminal.console()
        self._free: Queue[int] = Queue()  # devices
        for device in range(devices):
            self._free.put(device)
        self._check_arm_settings()
        self.base = read_recipe(source, self.overrides, losses=self.arms[0].losses)
        check_trust_of_recipe(self.base, self.overrides, is_trusted=trust_run)
        check_chains(given, self.base)
        check_equal_dpo({self._player(arm).name for arm in self.with_dpo}, self.arm_settings, self.base)
        self.folder = home_expanded(self.base.play.run_dir or Path("runs") / f"{self.base.name}-compare")
        self.ownership = Ownership(self.folder, COMPARISON)
        if os.path.exists(self.folder / "journal.jsonl"):
            raise RecipeError(f"{self.folder} already contains a run. Give the comparison its own `--run_dir`.")
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
                    f"`--arm_settings` sets {other[0]!r} for {name!r}. An arm may have its own "
                    f"{', '.join(sorted(OF_AN_ARM | own))}; everything else must be the same for all arms."
                )
            stepping = [setting for setting in settings if setting not in own | {"learning_rate"}]
            if self.supervised and name == self.arms[0].name and stepping:
                raise RecipeError(
                    f"`--arm_settings` sets {stepping[0]!r} for {name!r}, but the supervised arms "
                    f"({', '.join(arm.name for arm in self.supervised)}) are as long as the first arm. Put another arm "
                    "first."
                )

    def _recipe(self, arm: Arm, seed: int) -> Recipe:
        """Return the recipe of an arm with a seed; the first arm has the supervised arms as its baseline."""
        own = self.arm_settings.get(arm.name, {})
        arguments = without_options(self.overrides, own)
        for name, value in own.items():
            several = isinstance(value, list) and name not in PER_ITERATION
            values = map(str, value) if several else [value if isinstance(value, str) else json.dumps(value)]
            arguments += [f"--{name}", *values]
        arguments += ["--seed", str(seed), "--run_dir", str(self._directory(arm, seed).path)]
        recipe = read_recipe(self.source, arguments, losses=arm.losses)
        for name in ("empty_generations", "truncated_generations", "identical_generations"):
            if getattr(recipe.args, name) == "drop":
                raise RecipeError(
                    f"`{name}: drop` would give the arms different numbers of gradient steps. Set it to `keep`."
                )
        if recipe.args.engine == SERVER and recipe.play.server_reload != RELOAD_LORA:
            raise RecipeError(
                "The arms of a comparison need different weights at the same time, so with `engine: server` they are "
                "adapters that the servers load by request. Set `server_reload: lora` and `use_peft: true`, or use another "
                "engine."
            )
        # All arms must play the same number of iterations, however they turn out.
        recipe.play.stop_at_plateau, recipe.play.degeneration_stop = False, {}
        recipe.play.on_regression, recipe.play.patience = "continue", None
        if recipe.play.review_gate == WAIT:  # nor may an arm wait for people
            recipe.play.review_gate = WARN
        recipe.args.push_to_hub = False  # all arms would be pushed to the same repository
        supervised = [one.name for one in self.supervised] if arm == self.arms[0] else []
        others = [name for name in (DFT, BEST_SFT) if name in supervised]
        smoothings = [smoothing_of_arm(name) for name in supervised if name not in others]
        recipe.play.baseline = [*([SFT] if smoothings else []), *others] or None
        recipe.play.baseline_label_smoothing = smoothings or [0.0]
        refuse_unplayable(against_arms(recipe.play))
        ask_for_dpo(recipe, [one for one in self.with_dpo if self._player(one) == arm], self._directory(arm, seed))
        refuse_unplayable(against_dpo(recipe.args, recipe.play, has_pairs=recipe.data.dpo_name is not None))
        if recipe.play.baseline_learning_rate is None and "learning_rate" in own:
            # The learning rate given for all arms, not the first arm's own.
            of_all = iteration_settings(self.base.play, 0)
            recipe.play.baseline_learning_rate = of_all.get("learning_rate", self.base.args.learning_rate)
        return recipe

    def _player(self, arm: Arm) -> Arm:
        """Return the self-play arm in whose run an arm is played: the first one for supervised arms and DPO on the start."""
        return arm.before_dpo() if arm.losses else self.arms[0]

    def _directory(self, arm: Arm, seed: int) -> RunDirectory:
        """Return the directory of the run in which an arm is played."""
        return RunDirectory(self.ownership.place(f"seed-{seed}") / self._player(arm).name.replace("*", "x"))

    def _played(self, arm: Arm, seed: int) -> PlayedArm:
        return PlayedArm(arm, seed, self._directory(arm, seed), self.recipes[self._player(arm).name, seed].play)

    # ---- playing ------------------------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Play what has not finished yet, then make the table and the plot.

        Returns:
            The contents of `comparison.json`.

        Raises:
            LaunchError: if an arm failed; the others are still played and shown.
            DivergedError: if every arm diverged before anything was measured.
        """
        self.ownership.claim(self.base.file, self._written_by_0_1_0())
        failed = [output for seed in self.seeds for output in self._play_seed(seed)]
        result = self._show()
        if failed:
            raise LaunchError(
                f"Some arms failed; their output says why: {', '.join(map(str, dict.fromkeys(failed)))}. Run the same "
                "command to try again."
            )
        if result["ended"] and not result["figures"].keys() - {START}:
            ends = "\n".join(f"- {end['arm']}, seed {end['seed']}: {end['reason']}" for end in result["ended"])
            raise DivergedError(f"There is nothing to compare: every arm ended in its first iteration:\n{ends}")
        return result

    def _written_by_0_1_0(self) -> list[str]:
        """List what version 0.1.0, which had no marker, wrote to the folder; empty if it does not contain a comparison."""
        seeds = {path.parent.parent.name for path in self.folder.glob("seed-*/*/journal.jsonl")}
        files = [name for name in ("table.txt", "plot.png", "comparison.json") if (self.folder / name).is_file()]
        return [*sorted(seeds), *files] if seeds else []

    def _play_seed(self, seed: int) -> list[Path]:
        """Play all arms of a seed. Return the output files of those that failed."""
        self.ownership.own(f"seed-{seed}")
        for arm in self.arms:
            directory = self._directory(arm, seed)
            directory.claim(self.base.play.existing_run)
            settings = self.recipes[arm.name, seed].settings()
            freeze(directory, settings)
            renew(directory, settings)
        # The arm that already has the start; in a new comparison, the first arm.
        leader = next((arm for arm in self.arms if _has_start(self._directory(arm, seed))), self.arms[0])
        with ThreadPoolExecutor(self.devices) as pool:
            try:
                first = pool.submit(self._play_arm, leader, seed)
                followers = [arm for arm in self.arms if arm != leader]
                others = [pool.submit(self._follow, leader, first, arm, seed) for arm in followers]
                return [path for future in (first, *others) if (path := future.result()) is not None]
            except BaseException:
                self._launches.stop()
                raise

    def _follow(self, leader: Arm, first: Future, arm: Arm, seed: int) -> Path | None:
        """Play an arm as soon as the leading arm has produced what they share."""
        source = self._directory(leader, seed)
        while not _has_start(source):
            if first.done():
                return _output(source)
            time.sleep(0.5)
        share_start(source, self._directory(arm, seed), pairs=bool(self.recipes[arm.name, seed].play.then_dpo))
        return self._play_arm(arm, seed)

    def _play_arm(self, arm: Arm, seed: int) -> Path | None:
        """Play an arm on a free device. Return its output file if it failed."""
        directory = self._directory(arm, seed)
        if self._has_diverged(arm, seed) or self._is_finished(arm, seed, directory):
            return None
        device = self._free.get()
        try:
            self._console.print(f"seed {seed}: {arm.name} ...", highlight=False)
            alone = None if self.devices == 1 else device
            directory.own(OUTPUT)
            failed = self._launches.run(["run", str(directory.path), "--trust_run"], _output(directory), alone)
            return _output(directory) if failed and not self._has_diverged(arm, seed) else None
        finally:
            self._free.put(device)

    def _has_diverged(self, arm: Arm, seed: int) -> bool:
        """Return whether an arm's training has diverged for good: it would stop at the same step with the same settings."""
        found = diverged(Journal(self._directory(arm, seed).journal).entries())
        return bool(found) and found.get("on_nan") == self.recipes[arm.name, seed].args.on_nan

    def _is_finished(self, arm: Arm, seed: int, directory: RunDirectory) -> bool:
        if not directory.best.exists():
            return False
        arms = [arm, *(self.supervised if arm == self.arms[0] else ())]
        stages, record = [one.stage(self.num_iterations - 1) for one in arms], read_record(directory)
        on_nan = self.recipes[arm.name, seed].args.on_nan
        stages = [stage for stage in stages if end_of_arm(record.journal, stage).get("on_nan") != on_nan]
        if self.base.data.test_name is not None:
            finals = finalists(record, self.recipes[arm.name, seed].play)
            if not all(newest(record.journal, Step.TEST, stage) for stage in finals):
                return False
        of_dpo = [self._played(one, seed).stage_of_dpo(record) for one in self.with_dpo if self._player(one) == arm]
        if not all(newest(record.journal, Step.EVALUATE, stage) for stage in of_dpo):
            return False
        return bool(record.stopped) or all(newest(record.journal, Step.EVALUATE, stage) for stage in stages)

    # ---- showing ------------------------------------------------------------------------------------------------------

    def _show(self) -> dict[str, Any]:
        cells = [cell for seed in self.seeds for cell in self._cells(seed)]
        summary = summarise_cells(cells, len(self.seeds))
        add_sums(summary)
        baseline = self.supervised[0].name if self.supervised else None
        on_test = summarise_cells([cell for seed in self.seeds for cell in self._test_cells(seed)], len(self.seeds))
        for table in self._tables(summary, on_test, self._console.width):
            self._console.print(table)
        rates, remarks = self._on_supervised()
        played = [self._played(arm, seed) for arm in self.with_dpo for seed in self.seeds]
        trained, of_dpo = dpo_arms_in_words(played, self.arms[0].name, has_supervised=bool(self.supervised))
        remarks += of_dpo
        for remark in remarks:
            self._console.print(remark, highlight=False, soft_wrap=True)
        arms = [*self.arms, *self.supervised]
        ended = [end for seed in self.seeds for arm in arms if (end := self._end(arm, seed)) is not None]
        for end in ended:
            self._console.print(str(end), style="bold", highlight=False, soft_wrap=True)
        text = "".join(map(_printed, self._tables(summary, on_test, None)))
        text += "".join(f"\n{line}\n" for line in (*remarks, *ended))
        write_text(self.ownership.own("table.txt"), visible(text))
        plot_comparison(self.ownership.own("plot.png"), summary, self.metric, baseline, self.base.play.baseline_equal)
        result = {
            "recipe": self.source,
            "arms": [arm.name for arm in (*self.arms, *self.supervised, *self.with_dpo)],
            "seeds": self.seeds,
            "figures": summary,
            "ended": [asdict(end) for end in ended],
        }
        if on_test:
            result["test"] = {arm: figures for arm, rows in on_test.items() for figures in rows.values()}
        if self.with_dpo:
            result |= {"dpo": trained, "remarks": remarks}
        if self.supervised:
            result |= {"equal": self.base.play.baseline_equal, "learning_rates": rates, "remarks": remarks}
        write_json(self.ownership.own("comparison.json"), result)
        self._console.print(f"Table, plot and figures: {self.folder}", highlight=False)
        return result

    def _tables(self, summary: Summary, on_test: Summary, width: int | None) -> list[Table]:
        """Return the tables of a comparison: the held-out figures, those on the test set, and the costs."""
        baseline = self.supervised[0].name if self.supervised else None
        against = ComparedWith(baseline, self._dpo_on_start.name if self._dpo_on_start is not None else None)
        found = [
            comparison_table(summary, self.metric, len(self.seeds), width, against),
            table_of_test_set(on_test, self.metric, len(self.seeds), width, against),
            cost_table(summary, width),
        ]
        return [table for table in found if table is not None]

    def _on_supervised(self) -> tuple[dict[str, float], list[str]]:
        """Return the learning rates of the supervised arms, and remarks on how long they are and how they were trained."""
        records = {seed: read_record(self._directory(self.arms[0], seed)) for seed in self.seeds}
        rates: dict[str, float] = {}
        for record in records.values():
            rates = learning_rates(record) | rates
        rates = {arm.name: rates[arm.name] for arm in self.supervised if arm.name in rates}
        if not rates:
            return {}, []
        settings = {"baseline_equal": self.base.play.baseline_equal}
        names = ", ".join(arm for arm in rates if arm != BEST_SFT)
        length = [f"{names}: {length_in_words(settings, self.arms[0].name)}."] if names else []
        points = {seed: best_sft_in_words(record) for seed, record in records.items()}
        found = [f"Seed {seed}: {said}" for seed, said in points.items() if said is not None and BEST_SFT in rates]
        return rates, [*length, untuned_in_words(rates), *found]

    def _end(self, arm: Arm, seed: int) -> EarlyEnd | None:
        """Return why an arm ended before its last iteration, or None. A supervised arm that ends does not end its run."""
        record = read_record(self._directory(arm, seed))
        found = end_of_arm(record.journal, arm.stage(self.num_iterations - 1)) if not arm.losses else {}
        if arm.losses and self._has_diverged(arm, seed):
            found = diverged(record.journal)
        if found:
            reason, rows = found.get("reason", "its training has diverged"), found.get("rows", [])
            return EarlyEnd(arm.name, seed, found["stage"], reason, found.get("at_step"), rows)
        if record.stopped and arm.losses:
            return EarlyEnd(arm.name, seed, record.stopped["stage"], record.stopped["reason"])
        return None

    @property
    def _dpo_on_start(self) -> Arm | None:
        """The arm of DPO on the start, with which DPO on top of self-play is compared."""
        return next((arm for arm in self.with_dpo if not arm.losses), None)

    def _cells(self, seed: int) -> list[ArmFigures]:
        """Return the figures of a seed by arm and iteration. Self-play arms are compared with the first supervised arm, and
        DPO on top of them with DPO on the start."""
        first = self._directory(self.arms[0], seed)
        cells = figures_of_arm(first, START, START, -1, seed)
        for arm in (*self.arms, *self.supervised):
            for t in range(self.num_iterations):
                is_compared = arm.losses and self.supervised
                against = read_stage(first, self.supervised[0].stage(t)).values if is_compared else None
                cells += figures_of_arm(self._directory(arm, seed), arm.stage(t), arm.name, t, seed, against)
        without = self._dpo_on_start
        of_start = None if without is None else read_stage(first, self._played(without, seed).stage_of_dpo()).values
        for arm in self.with_dpo:
            against = of_start if arm.losses else None
            cells += figures_after_dpo(self._played(arm, seed), self.num_iterations, against, FROM_DPO)
        return cells

    def _test_cells(self, seed: int) -> list[ArmFigures]:
        """Return the figures of a seed on the test set, if any: those of the start and of every arm's best model."""
        if self.base.data.test_name is None:
            return []
        everyone = (*self.arms, *self.supervised, *self.with_dpo)
        best = {arm.name: self._played(arm, seed).finalist() for arm in everyone}
        without = self._dpo_on_start
        cells = figures_on_test(START, read_stage(self._directory(self.arms[0], seed), START), seed, {})
        for arm in everyone:
            others = {}
            if arm.losses and not arm.has_dpo and self.supervised:
                others[AGAINST] = best[self.supervised[0].name]
            if arm.losses and arm.has_dpo and without is not None:
                others[FROM_DPO] = best[without.name]
            cells += figures_on_test(arm.name, best[arm.name], seed, others)
        return cells


def _has_start(directory: RunDirectory) -> bool:
    return Journal(directory.journal).find(Step.GENERATE, Stage.of(0)) is not None


def _output(directory: RunDirectory) -> Path:
    return directory.ownership.place(OUTPUT)


def _printed(table: Any) -> str:
    """Return the whole table as text, however wide it is."""
    width = terminal.console(width=10_000).measure(table).maximum
    file = io.StringIO()
    terminal.console(file, width).print(table)
    return file.getvalue()
