"""`SelfPlay`: plays all iterations of a run, one after another. There is one loop; how it launches a phase is a parameter.

In every iteration t, θ_t answers the prompts (generate), then θ_{t+1} learns to prefer the human responses (train) and is
measured on held-out prompts (evaluate). The best model so far is always known.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import shlex
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset
from transformers import BitsAndBytesConfig, PreTrainedTokenizerBase
from trl import DPOConfig

from ..config import credentials
from ..config.fetched import model_path
from ..config.iteration import SPINConfig
from ..config.loop import SMOKE_ROWS, SelfPlayConfig
from ..config.paths import output_folder
from ..config.start import StartConfig
from ..config.unusual import unusual
from ..counts import counted
from ..data.columns import is_text
from ..data.preferences import check_pairs
from ..errors import DataError, PausedError, RecipeError, RunDirectoryError, noted, refuse_unplayable
from ..evaluation.scoring import Scorer
from ..generation.parts import GenerationPart
from ..hub.cards import write_cards
from ..hub.push import Pushing
from ..models.adapters import Policy
from ..report import terminal
from ..report.record import read_record
from ..run.directory import RunDirectory
from ..run.journal import DATA, MADE, RETENTION, TEST, Step
from ..run.objects import best_stage
from ..run.run import LAUNCHED, Run, given_stage
from ..run.settings import python_settings
from ..run.stage import BEST_SFT, DPO, START, Stage
from ..training.arguments import as_dataset, as_settings, as_whole_model, check_kinds
from .answering.at_hand import at_hand
from .answering.batch_size import settle_batch_size
from .arguments import drawn_rows, first_rows, measured_rows_of, scorer_from, sft_adapter
from .best import deliver_best
from .console import intention, phase_line, show, table_of_tests, watched
from .gate import Verdict, judge, settle, settle_generations
from .judged import judge_of, whole_permission
from .parts import generate_part, merge_parts
from .phases import Launch, check_order, in_this_process
from .plugin import check_launcher, training_plugin
from .prepare import check_human_responses, check_scorer_columns
from .rehearse import processes_of, reasons, starts_from_adapter
from .result import RunResult, result_of
from .review import check_votes, hold_review
from .same_start import check_same_start
from .set_up import RunData, claim_directory, set_up
from .settled_engine import SettledEngine
from .trackers import track, track_dpo, track_reviews, track_tests

logger = logging.getLogger(__name__)


class SelfPlay:
    """A self-play run: `SelfPlay(model="...", args=SPINConfig(...), play=SelfPlayConfig(), train_dataset=...).run()`.

    Calling `run()` again, in this process or another, resumes the run where it was interrupted.

    Args:
        model: θ_0: a Hub name, a folder, the name of a fetched model, a model, or None to build a small one from `start`.
        args: settings of an iteration. For a TRL `DPOConfig`, the settings it does not have take their defaults.
        play: settings of the loop.
        train_dataset: human responses: `messages`, or `prompt` and `completion`. A `Dataset` (its format is ignored, its
            transform is applied), a list of rows, or a `pandas.DataFrame`.
        eval_dataset: held-out responses in the same form; None: a fraction of the prompts is held out.
        processing_class: the tokenizer; None: the model's own.
        peft_config: PEFT configuration, such as LoRA's; None for full fine-tuning.
        quantization_config: how the base model is quantised when it is loaded.
        start: how θ_0 is built if `model` is None.
        scorer: function of the prompt, the real and the generated text of a held-out prompt, whose further parameters are
            columns of its row; or one or several names, as in a recipe.
        launch: function that runs a phase; by default it runs in this process.
        settings: all settings as a recipe, if the run comes from one.
        sources: names of the data under a recipe's keys (`dataset_name`, ...), for the cards.
        recipe: file of the recipe, if the run comes from one. It may be in the run directory, and is not changed.
        trust_run: with `trust_remote_code`, whether to run the code of models in the run directory even if the directory
            was copied from elsewhere.
        test_dataset: responses in the same form that the final models are measured on once, at the end; None: no test set.
        retain_dataset: responses of other tasks, in the same form, on which every model is compared with the start; None:
            no retention set.
        sft_peft_config: PEFT configuration of SFT first (`start: sft`); None: `peft_config`, unless `sft_use_peft` is false.
        dpo_dataset: preference pairs for `then_dpo`, in any of TRL's preference formats; None: no DPO on top.

    Raises:
        DataError: if the data can't be used.
        RecipeError: if an argument has the wrong type, settings contradict each other, or the model has to be fetched first.
    """

    def __init__(
        self,
        model: str | Path | Policy | None,
        args: SPINConfig | DPOConfig | None = None,
        play: SelfPlayConfig | None = None,
        train_dataset: Dataset | Sequence[Mapping[str, Any]] | None = None,
        eval_dataset: Dataset | Sequence[Mapping[str, Any]] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: Any = None,
        quantization_config: BitsAndBytesConfig | None = None,
        start: StartConfig | None = None,
        scorer: Scorer | str | Sequence[str] | None = None,
        launch: Launch = in_this_process,
        settings: dict[str, Any] | None = None,
        sources: Mapping[str, Any] | None = None,
        recipe: str | os.PathLike[str] | None = None,
        trust_run: bool = False,
        test_dataset: Dataset | Sequence[Mapping[str, Any]] | None = None,
        retain_dataset: Dataset | Sequence[Mapping[str, Any]] | None = None,
        sft_peft_config: Any = None,
        dpo_dataset: Dataset | Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        # Long, since it takes everything a run can be given and validates it before anything is stored.
        check_kinds(play=play, tokenizer=processing_class, peft_config=peft_config, start=start)
        check_kinds(sft_peft_config=sft_peft_config)
        check_kinds(settings=settings, sources=sources, quantization_config=quantization_config, launch=launch)
        whole, args, play = as_whole_model(model), as_settings(args) or SPINConfig(), play or SelfPlayConfig()
        for config in (args, play, start, dict(sources or {}), settings):
            credentials.refuse_credentials(config)
        if train_dataset is None:
            raise DataError("`train_dataset` is required: prompts with human responses.")
        rows: Dataset = as_dataset(train_dataset, "train_dataset")
        held_out: Dataset | None = None if eval_dataset is None else as_dataset(eval_dataset, "eval_dataset")
        check_human_responses(rows)
        self.train_dataset = first_rows(rows, SMOKE_ROWS) if play.smoke else rows
        self.eval_dataset = first_rows(held_out, SMOKE_ROWS) if play.smoke and held_out else held_out
        self.measured = {
            name: measured_rows_of(as_dataset(dataset, argument), name, play)
            for name, dataset, argument in (
                (TEST, test_dataset, "test_dataset"),
                (RETENTION, retain_dataset, "retain_dataset"),
            )
            if dataset is not None
        }
        pairs = None if dpo_dataset is None else check_pairs(as_dataset(dpo_dataset, "dpo_dataset"))
        self.pairs = None if pairs is None else drawn_rows(pairs, play.most_pairs)
        self.launch = launch
        self.directory = RunDirectory(play.run_dir or output_folder(args))
        named = model_path(os.path.expanduser(whole)) if isinstance(whole, str) else None
        given = None if isinstance(whole, str) else whole
        refused: list[str] = []
        permission = whole_permission(play, self.directory)
        self.state = Run(
            directory=self.directory,
            args=args,
            play=play,
            model=str(self.directory.model(given_stage(play))) if given is not None else named,
            start=start or StartConfig(),
            peft_config=peft_config,
            sft_peft_config=sft_adapter(play, peft_config, sft_peft_config),
            quantization_config=quantization_config,
            scorer=noted(refused, lambda: scorer_from(scorer, play, permission)),
            permission=permission,
            processing_class=processing_class,
            given=given,
            sources=sources or {},
            refused=refused,
            has_pairs=pairs is not None,
        )
        if play.judge_reviews:
            noted(self.state.refused, lambda: judge_of(play, self.directory))
        check_scorer_columns(self.state, self.train_dataset, self.eval_dataset)
        self._settings = dict(settings or python_settings(self.state))
        self._engine = SettledEngine(self.state, self._settings, is_named=not settings or "engine" in settings)
        self._recipe = Path(recipe) if recipe is not None else None
        self._trust_run = trust_run
        self._console = terminal.console()
        self._phases = ("generate", "train", "evaluate", *(("baseline",) if play.baseline else ()))
        if settings is None and peft_config is not None and starts_from_adapter(self.state):
            logger.warning(
                "`peft_config` is not used: %s is already an adapter, and training continues with it unchanged.",
                named,
            )
        if settings is None:  # for a recipe, the command has already warned
            for sentence in unusual(args, play):
                logger.warning(sentence)
        if self.state.refused:
            self._check_playable()

    def run(self, until: str | None = None) -> RunResult:
        """Play all iterations that have not finished yet.

        Args:
            until: `generate`: end before the next generate phase that has not finished, so that several machines can share
                it (see [`SelfPlay.generate_part`]). None: play to the end.

        Returns:
            The best model's location, and the figures of all stages.

        Raises:
            DataError: if the data can't be used, or has changed since the run was started.
            RecipeError: if the settings can't be played; the message gives all reasons.
            RunDirectoryError: if the run directory belongs to a run with other settings, contains other files, or is in use.
            LaunchError: if this process was started by a launcher that gets in the way, or a launched phase failed.
            HubError: if the run may have a backup on the Hub (`hub_backup`), and the Hub can't be reached.
        """
        if until not in (None, "generate"):
            raise RecipeError(f"`until` is {until!r}; expected 'generate', or None to play to the end.")
        check_launcher(self.state.play.accelerate_config, launches=self.launch is not in_this_process)
        self._check_playable()
        run, main = self.state, PartialState().is_main_process
        run.plays_on = until is None  # otherwise other machines may answer the training prompts
        pushing = Pushing(run, self._console, active=main)
        if main:
            self.directory.ownership.check(self._recipe)  # before a lock file is left in someone else's folder
        with self.directory.locked() if main else contextlib.nullcontext():
            if main:
                self._claim_directory()
            pushing.restore()
            if main:
                self._tell(
                    f"Preparing {counted(len(self.train_dataset), 'row')} for the run {self.directory.path} ..."
                )
            self._set_up()
            if main:
                processes = processes_of(run.play.accelerate_config)
                for line in intention(run, self._phases, processes, is_text=is_text(self.train_dataset)):
                    self._tell(line)
            with pushing, ThreadPoolExecutor(max_workers=1) as background:
                try:
                    return self._play_all(pushing, background, until)
                except PausedError as paused:
                    return self._end_paused(str(paused))

    def _check_playable(self) -> None:
        """Raise if the run can't be played, before anything is written or generated. A launched phase was checked before."""
        self._engine.settle()
        if LAUNCHED in os.environ or training_plugin() is not None:
            refuse_unplayable(self.state.refused)
        else:
            refuse_unplayable(
                reasons(self.state, len(self.train_dataset), processes_of(self.state.play.accelerate_config))
            )

    def _play_all(self, pushing: Pushing, background: ThreadPoolExecutor, until: str | None) -> RunResult:
        """Play all iterations in order. `pushing` is notified of finished phases, and `background` writes the cards."""
        run, main = self.state, PartialState().is_main_process
        self._play("start", 0)
        pushing.finished()
        stopped: str | None = None
        cards: Future[None] | None = None
        for iteration in range(run.play.num_iterations):
            news = []
            for phase in self._phases:
                if phase == until and not run.done(Step.GENERATE, Stage.of(iteration)):
                    return self._end_before(iteration)
                news.append(self._play(phase, iteration))
                pushing.finished()
                if phase == "generate" and (stopped := settle_generations(run, iteration)) is not None:
                    break
            if stopped is not None:  # this iteration is not trained
                iteration -= 1
                if iteration >= 0 and BEST_SFT in run.arms:  # only now is it known where the run ends
                    self._play("baseline", iteration)
                    pushing.finished()
                if main:
                    if iteration >= 0:
                        hold_review(run, iteration)
                    show(run, iteration, deliver_best(run, iteration)["stage"], self._console)
                    self._tell(stopped)
                    cards = background.submit(self._write_cards)
                PartialState().wait_for_everyone()
                if iteration >= 0:
                    check_votes(run, iteration)
                break
            if cards is not None:
                cards.result()  # models about to be deleted take their cards with them
            best = deliver_best(run, iteration)["stage"] if main else None
            PartialState().wait_for_everyone()
            if main:
                track(run, iteration)
                track_reviews(run)
            verdict, is_new = settle(run, iteration)
            if main and is_new:  # settings that have changed may make it the last
                hold_review(run, iteration)
            PartialState().wait_for_everyone()
            ends = iteration == run.play.num_iterations - 1
            is_last = ends or verdict.stopped is not None
            if best is not None and (any(news) or is_last):
                # The live view has already shown the table.
                show(run, iteration, best, self._console if is_last or not self._is_watched else None)
            if main:
                self._say(verdict, is_news=any(news) or is_new, is_last=is_last)
            if main and (any(news) or is_new or is_last):
                cards = background.submit(self._write_cards)
            check_votes(run, iteration)  # before the iteration is pushed, since people may reject it
            pushing.finished(iteration)
            if verdict.stopped is not None:
                stopped = None if ends else verdict.stopped
                break
        last = [*([DPO] if run.play.then_dpo else ()), *([TEST] if TEST in self.measured else ())]
        for phase in last:
            if cards is not None:
                cards.result()  # the cards are written again, with the new figures
            self._play_last(phase, iteration)
            pushing.finished(iteration)
        return result_of(run, iteration, stopped)

    def _play_last(self, phase: str, iteration: int) -> None:
        """Play a phase that follows the last iteration, and show its figures wherever a run's results are shown."""
        if self._play(phase, iteration) and PartialState().is_main_process:
            is_dpo = phase == DPO
            best = deliver_best(self.state, iteration)["stage"] if is_dpo else str(best_stage(self.directory))
            if is_dpo:
                track_dpo(self.state)
            show(self.state, iteration, best, self._console if is_dpo else None)
            record = read_record(self.directory)
            table = None if is_dpo else table_of_tests(record, self._console.width)
            if table is not None:
                self._console.print(table)
            for stage in record.after_dpo if is_dpo else ():
                if reason := record.decision(stage).get("reason"):
                    terminal.tell(self._console, reason, "yellow")
            self._write_cards()
        if PartialState().is_main_process:
            track_tests(self.state)
        PartialState().wait_for_everyone()

    def _write_cards(self) -> None:
        """Rewrite the models' cards: training wrote them before the figures were known."""
        try:
            write_cards(self.directory, pairs=False)
        except Exception as error:  # a missing card is no reason to lose the run
            logger.warning("The cards were not written: %s: %s", type(error).__name__, error)

    def _end_before(self, iteration: int) -> RunResult:
        """End the run before an iteration's generate phase, and print how to continue."""
        path = shlex.quote(str(self.directory.path))
        with at_hand(self.state, self.state.model_of(START)) as model:
            settle_batch_size(self.state, model)  # now, since later several machines would compute different numbers
        if PartialState().is_main_process:
            if not iteration:  # later iterations follow one whose result has been delivered
                deliver_best(self.state, -1)
            self.directory.own(Stage.of(iteration))  # now, since later several machines would do it at the same time
            self._tell(
                f"The run ends before iteration {iteration} generates. To share its prompts among N machines, run on each, "
                f"with I from 1 to N: spin-trl generate {path} --iteration {iteration} --shard I/N. When all have ended: "
                f"spin-trl merge {path} --iteration {iteration}. Then, or to generate here: spin-trl run {path}"
            )
        PartialState().wait_for_everyone()
        return result_of(self.state, iteration - 1, None)

    def _end_paused(self, message: str) -> RunResult:
        """End the run until servers have been given other weights, or people have voted, and print what to do."""
        if PartialState().is_main_process:
            if best_stage(self.directory) is None:
                deliver_best(self.state, -1)
            self._tell(message)
        PartialState().wait_for_everyone()
        trained = [t for t in self.directory.iterations() if self.state.done(Step.TRAIN, Stage.of(t))]
        return dataclasses.replace(result_of(self.state, max(trained, default=-1), None), paused=message)

    def generate_part(self, iteration: int, part: GenerationPart) -> None:
        """Generate a part of an iteration's responses; other machines may generate the others at the same time.

        Args:
            iteration: number of the iteration (0-based). The phases before its generate phase must have finished.
            part: the part.

        Raises:
            RunDirectoryError: if the run has not got this far, or another process generates this part.
            GenerationsError: if the part was begun with other settings, or another model.
        """
        self._check_playable()
        if self.state.done(Step.PREPARE, DATA) is None:
            raise RunDirectoryError(
                f"The run in {self.directory.path} has not begun. Play it up to its first generate phase: `spin-trl run "
                f"{self.directory.path} --until generate`."
            )
        self._set_up(is_alone=False)
        check_order(self.state, "generate", iteration)
        generate_part(self.state, iteration, part)

    def merge_parts(self, iteration: int) -> None:
        """Merge the parts of an iteration's generations, and record its generate phase as finished.

        Args:
            iteration: number of the iteration (0-based).

        Raises:
            RunDirectoryError: if there are no parts, or another process is playing the run.
            GenerationsError: if a part is missing, damaged or made with other settings; the message names the shards.
        """
        self._check_playable()
        self._claim_directory()
        with self.directory.locked():
            self._set_up()
            merge_parts(self.state, iteration)
            in_this_process(self.state, "generate", iteration)

    def run_phase(self, phase: str, iteration: int) -> None:
        """Run one phase of one iteration in this process, under any launcher; skip it if it has finished.

        Args:
            phase: `start`, `generate`, `train`, `evaluate`, `baseline`, `dpo` or `test`.
            iteration: number of the iteration (0-based). The phases before this one must have finished. `dpo` and `test`
                always follow the last iteration that was played.
        """
        self._check_playable()
        if phase in (DPO, TEST) and LAUNCHED not in os.environ:
            played = (t for t in self.directory.iterations() if self.state.done(Step.TRAIN, Stage.of(t)))
            iteration = max(played, default=0)
        if PartialState().is_main_process:
            self._claim_directory()
        self._set_up()
        before = len(self.state.journal.entries())
        by_hand = PartialState().is_main_process and LAUNCHED not in os.environ
        with contextlib.ExitStack() as stack:
            # For a job's log; on a terminal the libraries' progress bars show more.
            if by_hand and not self._is_watched:
                stack.enter_context(
                    watched(self.state, self._console, phase, iteration, self._phases, elsewhere=False)
                )
            in_this_process(self.state, phase, iteration)
        if by_hand and phase in ("evaluate", "baseline", DPO, TEST) and len(self.state.journal.entries()) > before:
            # Phases that are launched separately also produce a run's outputs, as far as the run has got.
            best = deliver_best(self.state, iteration)["stage"]
            track(self.state, iteration)
            track_dpo(self.state)
            track_tests(self.state)
            track_reviews(self.state)
            show(self.state, iteration, best, None)
            self._write_cards()
        if by_hand and phase == "evaluate":
            self._say(judge(read_record(self.directory), self.state.play, iteration), is_news=True, is_last=False)
        PartialState().wait_for_everyone()

    @property
    def _is_watched(self) -> bool:
        """Whether a terminal shows live progress. One that can't move its cursor (`TERM=dumb`) gets a log instead."""
        return PartialState().is_main_process and self._console.is_interactive

    def _tell(self, line: str) -> None:
        """Print a line about the run's progress."""
        terminal.tell(self._console, line)

    def _say(self, verdict: Verdict, *, is_news: bool, is_last: bool) -> None:
        """Print the warnings about an iteration, and why the run falls back or stops, if it does."""
        for warning in verdict.warnings if is_news else ():
            terminal.tell(self._console, warning, "yellow")
        if verdict.reason is not None and (verdict.stopped is not None or (is_news and not is_last)):
            terminal.tell(self._console, verdict.reason, "bold")

    def _play(self, phase: str, iteration: int) -> bool:
        """Launch a phase and print what it did. Return whether it had anything to do."""
        run = self.state
        if PartialState().is_main_process:
            check_same_start(run)  # another model may have been trained there in the meantime
        before = len(run.journal.entries())
        with contextlib.ExitStack() as stack:
            if PartialState().is_main_process:
                elsewhere = self.launch is not in_this_process
                stack.enter_context(watched(run, self._console, phase, iteration, self._phases, elsewhere=elsewhere))
            self.launch(run, phase, iteration)
        entries = run.journal.entries()
        news = entries[before:]
        if PartialState().is_main_process:
            for entry in news:
                if entry["phase"] in MADE:
                    self._tell(phase_line(entry, entries))
        return any(entry["phase"] in (*MADE, Step.GATE) for entry in news)

    def _set_up(self, *, is_alone: bool = True) -> None:
        """Do what all phases rely on, in the claimed directory."""
        data = RunData(self.train_dataset, self.eval_dataset, self.measured, self.pairs)
        note = self._engine.settle()  # again: the run may just have been restored from the Hub
        if note and PartialState().is_main_process and is_alone:
            self._tell(note)
        set_up(
            self.state,
            data,
            self._settings,
            trust_run=self._trust_run,
            is_alone=is_alone,
            asked=self._engine.asked,
            note=note,
        )

    def _claim_directory(self) -> None:
        """Claim the directory for this run, or check that it belongs to it."""
        claim_directory(self.state, self._recipe)
