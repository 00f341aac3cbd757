"""Makes preference pairs from a model's own samples: of several answers to a training prompt, the one that a scorer rates
highest is chosen, and the one that it rates lowest is rejected. Samples are stored, so an interrupted call resumes."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from tqdm.auto import tqdm

from ..config.loop import SMOKE_ROWS
from ..config.rubric import RUBRIC, rubric_for
from ..counts import counted
from ..data.bad_rows import SKIP
from ..data.kept_columns import kept_columns, with_kept_columns
from ..data.keys import row_keys, rows_digest
from ..errors import DataError, LaunchError, RecipeError, RunDirectoryError
from ..evaluation.ranking import (
    WITHOUT_PAIR,
    BestAndWorst,
    best_and_worst,
    check_ranking_number,
    number_in,
    ranking_number,
)
from ..evaluation.scoring import AnswerToScore, Score, Scorer, columns_of, figures_of, scores_of
from ..files import Checksum, definition_of, json_digest, parts_digest, short_digest, write_json, write_text
from ..generation.generations import Generations
from ..generation.store import GenerationStore
from ..hub.dataset import features_of_pairs, form_of, write_in_files
from ..hub.scored_pairs import OF_SCORED_PAIRS, ScoredPairs, mean_of_scores, scored_pair, scored_pairs_card
from ..judging.rubric import judged_criteria
from ..report.write import sampled_with
from ..run.checked import wrong_with
from ..run.journal import CHECKSUMS, DATA, Step
from ..run.objects import read_object
from ..run.recipe import read_recipe
from ..run.run import BEST, Run, find_stage, scorer_named
from ..run.settings import frozen_settings
from ..run.stage import Stage
from ..run.trust import check_trust, named_code
from ..training.arguments import as_dataset
from .answering.at_hand import at_hand
from .answering.into_store import answer_into
from .arguments import first_rows
from .judged import whole_permission
from .open import reopen
from .plugin import training_plugin
from .prepare import refuse_missing_columns

logger = logging.getLogger(__name__)

PAIRS_MANIFEST = ".pairs.json"
"""File in a folder of scored pairs that says what they are made from; once they are done, also counts and checksums."""

_SAMPLES = ".samples"
"""Folder of the samples, as tokens, in the folder of the pairs. `datasets` ignores hidden files and folders."""

_ABOUT = "Preference pairs of a model's own samples, ranked by a scorer. They are no human preferences. See README.md."

MOST_SAMPLES = 10_000
"""Maximum number of samples per prompt: far more than is useful, but no mistyped number that fills the memory."""

_ABOUT_CODE = ("allow_generated_code", "allow_unisolated_code", "judge_url", "judge_key_variable")


@dataclass(frozen=True)
class PairsWanted:
    """What pairs are to be made from.

    Attributes:
        scorer: names of the scorers, as in a recipe.
        score: the one of the scorer's numbers that ranks the samples; None: the first.
        stage: stage whose model is sampled, `best` or `last`.
        num_generations: number of samples per prompt, at least 2 and at most `MOST_SAMPLES`.
        max_prompts: maximum number of prompts, drawn at random; None: all.
        seed: seed of the draw and of sampling; None: the run's own.
    """

    scorer: Sequence[str]
    score: str | None = None
    stage: str = BEST
    num_generations: int = 8
    max_prompts: int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        bounds = {"num_generations": (2, MOST_SAMPLES), "max_prompts": (1, None), "seed": (0, None)}
        for name, (least, most) in bounds.items():
            value = getattr(self, name)
            if value is not None and (value < least or (most is not None and value > most)):
                at_most = f" and at most {most}" if most is not None else ""
                raise RecipeError(f"`--{name}` is {value}; it must be at least {least}{at_most}.")


def open_with_scorer(
    source: str,
    overrides: Sequence[str],
    scorer: str | None = None,
    rubric: str | None = None,
    *,
    trust_run: bool = False,
) -> Run:
    """Open a run without its data, but with a scorer.

    Args:
        source: the run directory.
        overrides: command-line settings, as for [`open.reopen`].
        scorer: name of the scorer; None: the scorer in the run's settings.
        rubric: file of the rubric for the scorer `rubric`; None: the run's own.
        trust_run: whether to run the code that the settings name even if the directory was copied from elsewhere.

    Raises:
        RecipeError: if there is no scorer of this name, it needs a permission or a rubric, or the run has no scorer.
        RunDirectoryError: as for [`open.reopen`], or if the run's scorer is code that is not trusted on this machine.
    """
    run = reopen(source, overrides, trust_run=trust_run)
    settings = frozen_settings(run.directory)
    own = settings.get("scorer") or []
    names = [scorer] if scorer is not None else [own] if isinstance(own, str) else list(own)
    if not names:
        raise RecipeError(f"The settings of the run in {source} name no `scorer`. Name one with `--scorer`.")
    code = named_code({**settings, "scorer": names, "retain_scorer": None})
    needed = (*_ABOUT_CODE, *(() if scorer is not None else ("scorer",)))
    check_trust(
        run.directory.ownership, {name: what for name, what in code.items() if name in needed}, is_trusted=trust_run
    )
    run.play.rubric = rubric_for(names, rubric, run.play.rubric)
    run.scorer = scorer_named(names, run.play, whole_permission(run.play, run.directory))
    run.play.scorer = names
    return run


def make_scored_pairs(
    run: Run, wanted: PairsWanted, output: Path | None = None, *, trust_run: bool = False
) -> tuple[Path, ScoredPairs]:
    """Sample a model's answers to the run's training prompts, rank them with a scorer, and write the pairs.

    Pairs that already exist are left unchanged, and samples of an interrupted call are used.

    Args:
        run: run with a scorer, from [`open_with_scorer`].
        wanted: what the pairs are made from.
        output: folder to write to; None: `pairs/SCORER-STAGE` in the run directory.
        trust_run: as for [`open_with_scorer`]; it also covers a function that the data is loaded with.

    Returns:
        The folder of the pairs, and the facts about them.

    Raises:
        DataError: if the run's data has not been prepared, lacks a column that the scorer needs, or no prompt gives a pair.
        RecipeError: if the run samples greedily, or the scorer does not return the wanted number.
        RunDirectoryError: if the stage has no model, or the folder holds something else.
        LaunchError: if a plugin of the launcher would shard the model.
    """
    # Long, since everything that can be refused is, before a model is loaded.
    if (plugin := training_plugin()) is not None:
        raise LaunchError(
            f"Sampling needs a full replica of the model in each process, but {plugin} shards it. Launch this without it."
        )
    if run.iteration_args(0).temperature == 0:
        raise RecipeError(
            "The run's `temperature` is 0, so all samples of a prompt are the same. No pairs can be made."
        )
    scorer, names = run.scorer, wanted.scorer
    if scorer is None:
        raise RecipeError("Pairs can't be made without a `scorer`.")
    figures = figures_of(names, run.play.criteria, judged_criteria(run.play))
    if wanted.score is not None and figures is not None:
        check_ranking_number(wanted.score, [one.removeprefix("score/") for one in figures if one != "score"])
    rows, repeated = _prompts(run, wanted)
    stage = find_stage(run, wanted.stage)
    seed = run.args.seed if wanted.seed is None else wanted.seed
    made_from = {
        **dataclasses.asdict(wanted),
        "scorer": list(names),
        "stage": str(stage),
        "seed": seed,
        "rows": rows_digest(rows),
        "model": _identity_of(run, stage),
        **({"rubric": json_digest(run.play.rubric)} if RUBRIC in names else {}),
    }
    in_run = f"{_name_of_scorers(names)}-{stage.replace('/', '-')}"
    folder = run.directory.scored_pairs / in_run if output is None else output
    earlier = _earlier(folder, made_from)
    if earlier is None:
        rows = _with_scored_columns(run, scorer, rows, trust_run=trust_run)
    PartialState().wait_for_everyone()  # all must have checked before one writes
    if earlier is not None:
        return folder, earlier
    if PartialState().is_main_process:
        folder = run.directory.own("pairs") / in_run if output is None else output
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / PAIRS_MANIFEST, {"about": _ABOUT, "made_from": made_from})
    with at_hand(run, run.model_of(stage)) as policy:
        asked = folder / _SAMPLES, 0, f"{stage}: samples"  # settings of iteration 0, as for the held-out prompts
        answer_into(run, policy, rows, *asked, num_generations=wanted.num_generations, seed=seed)
    store = GenerationStore(folder / _SAMPLES)
    samples = Generations.load({0: store})
    scores = _score_samples(run, scorer, rows, samples, wanted.num_generations)
    found = ScoredPairs(
        run=run.directory.path.resolve().name,
        stage=str(stage),
        scorer=list(names),
        score=ranking_number((score for key in rows["key"] for score in scores[key]), wanted.score),
        form=form_of(rows),
        prompts=len(rows),
        pairs=0,
        without_pair={},
        mean_score=None,
        truncated={},
        repeated=repeated,
        sampling=sampled_with(store.manifest()),
    )
    if PartialState().is_main_process:
        _write_pairs(run, folder, made_from, rows, samples, scores, found)
    PartialState().wait_for_everyone()
    return folder, _earlier(folder, made_from) or found


def _prompts(run: Run, wanted: PairsWanted) -> tuple[Dataset, int]:
    """Return one row for each prompt to answer, the first that has it, and the number of rows that repeat a prompt."""
    rows = run.self_play_rows()
    first: dict[str, int] = {}
    for index, prompt in enumerate(rows["prompt_hash"][:]):
        first.setdefault(prompt, index)
    if not first:
        raise DataError(f"The run in {run.directory.path} has no training prompts to answer.")
    seed = run.args.seed if wanted.seed is None else wanted.seed
    drawn = sorted(first, key=lambda prompt: parts_digest([str(seed), prompt]))[: wanted.max_prompts]
    return rows.select(sorted(first[prompt] for prompt in drawn)), len(rows) - len(first)


def _identity_of(run: Run, stage: Stage) -> str:
    """Return what identifies a stage's weights without reading them: their checksums in the journal, or the model's name."""
    trained = run.done(Step.TRAIN, stage) or {}
    files = {name: known for name, known in trained.get(CHECKSUMS, {}).items() if name.endswith(".safetensors")}
    given = run.done(Step.GIVEN, stage) or {}
    return json_digest(files) if files else str(given.get("digest") or run.model_of(stage))


def _name_of_scorers(names: Sequence[str]) -> str:
    """Return the names of scorers as part of a folder's name; patterns and functions get a digest, so that they differ."""
    text = "+".join(names)
    safe = re.sub(r"[^A-Za-z0-9_.+-]+", "-", text)[:60]
    return text if safe == text else f"{safe}-{short_digest(text, 8)}"


def _earlier(folder: Path, made_from: dict[str, Any]) -> ScoredPairs | None:
    """Return the facts about pairs that are already complete in a folder; None if they have yet to be made.

    Raises:
        RunDirectoryError: if the folder holds pairs made from something else, or other files.
    """
    path = folder / PAIRS_MANIFEST
    others = sorted(one.name for one in folder.iterdir()) if folder.is_dir() else []
    if others and not path.is_file():
        raise RunDirectoryError(
            f"{folder} already holds other files (the first is {others[0]}). Name an empty or a new folder with `--output`."
        )
    known = read_object(path, "Delete the folder to make its pairs again, or name another one with `--output`.")
    before = known.get("made_from")
    if known and before != made_from:
        before = before if isinstance(before, dict) else {}
        changed = [name for name, now in made_from.items() if before.get(name) != now]
        named = "; ".join(f"{name}: {before.get(name)!r} then, {made_from[name]!r} now" for name in changed)
        raise RunDirectoryError(
            f"The pairs in {folder} were made from something else ({named}). Name another folder with `--output`, or delete "
            "this one."
        )
    files = known.get("files")
    if not isinstance(files, dict):
        return None
    try:
        if any(wrong_with(folder / name, Checksum(*written)) for name, written in files.items()):
            return None
        return ScoredPairs(**known["result"])
    except (TypeError, KeyError):  # a damaged manifest; the samples are still there
        return None


def _with_scored_columns(run: Run, scorer: Scorer, rows: Dataset, *, trust_run: bool) -> Dataset:
    """Return the rows with the columns that the scorer takes, which are read from the run's data again.

    Raises:
        DataError: if a column that the scorer needs is missing, or the data has changed.
    """
    columns = columns_of(scorer)
    if not columns.named and columns.others is None:
        return rows
    recipe = read_recipe(str(run.directory.recipe), ["--use_cpu", "true"], accept_python=True)
    if recipe.data.dataset_name is None:
        refuse_missing_columns(columns, rows.select_columns([]), "training row")
        logger.warning(
            "The run was started from Python, so its data can't be read again; the scorer gets no columns of it."
        )
        return rows
    code = {name: what for name, what in named_code(recipe.settings()).items() if name == "dataset_name"}
    check_trust(run.directory.ownership, code, is_trusted=trust_run)
    source = as_dataset(recipe.data.train(bad_as_rows=run.args.bad_rows == SKIP), "train_dataset")
    source = first_rows(source, SMOKE_ROWS) if run.play.smoke else source
    known = (run.done(Step.PREPARE, DATA) or {}).get("dataset")
    keys = row_keys(source, definition_of(known))
    if keys.digest != known:
        raise DataError(
            f"The data of {run.directory.path} has changed since the run was started (dataset: {known} then, {keys.digest} "
            "now), so the scorer's columns can't be read from it. Restore the data."
        )
    refuse_missing_columns(columns, source, "training row")
    return with_kept_columns(rows, source, columns.among(source.column_names), keys)


def _score_samples(
    run: Run, scorer: Scorer, rows: Dataset, samples: Generations, count: int
) -> dict[str, list[Score]]:
    """Return the scores of all samples, by key of the row. Processes share the work, and each gets all results."""
    state, tokenizer, columns = PartialState(), run.tokenizer(), columns_of(scorer)
    mine = [rows[index] for index in range(state.process_index, len(rows), state.num_processes)]
    items = []
    for row in mine:
        kept = kept_columns(row)
        own = {name: kept[name] for name in columns.among(kept)}
        texts = _texts_of(row["key"], samples, count, tokenizer)
        items += [AnswerToScore(row["prompt"], row["real"], text, own) for text in texts]
    is_quiet = bool(run.args.disable_tqdm) or not state.is_local_main_process
    with tqdm(total=len(items), desc="Scoring", unit="sample", disable=is_quiet) as bar:
        scores = scores_of(scorer, items, lambda done: bar.update(done - bar.n))
    found = {row["key"]: scores[place * count : (place + 1) * count] for place, row in enumerate(mine)}
    return {key: scores for part in gather_object([found]) for key, scores in part.items()}


def _texts_of(key: str, samples: Generations, count: int, tokenizer: Any) -> list[str]:
    """Return the texts of a row's samples, in order."""
    return [str(tokenizer.decode(samples[key, 0, number], skip_special_tokens=True)) for number in range(count)]


def _write_pairs(
    run: Run,
    folder: Path,
    made_from: dict[str, Any],
    rows: Dataset,
    samples: Generations,
    scores: dict[str, list[Score]],
    found: ScoredPairs,
) -> None:
    """Write the pairs, their card, and at last the manifest with their counts and checksums.

    Raises:
        DataError: if no prompt gives a pair.
    """
    tokenizer = run.tokenizer()
    without, truncated = Counter(dict.fromkeys(WITHOUT_PAIR, 0)), Counter({"chosen": 0, "rejected": 0})
    numbers = {key: [number_in(score, found.score) for score in of_row] for key, of_row in scores.items()}

    def pairs() -> Iterator[dict[str, Any]]:
        for row in rows:
            of_row = numbers[row["key"]]
            chosen = best_and_worst(of_row, _texts_of(row["key"], samples, len(of_row), tokenizer))
            if not isinstance(chosen, BestAndWorst):
                without[chosen] += 1
                continue
            both = chosen.best, chosen.worst
            pair = scored_pair(row, samples, (of_row[chosen.best], of_row[chosen.worst]), both, tokenizer, found.form)
            truncated.update(side for side in truncated if pair[f"{side}_finish_reason"] == "length")
            yield pair

    files = write_in_files(folder, pairs(), features_of_pairs(found.form, OF_SCORED_PAIRS))
    mean = mean_of_scores([number for key in rows["key"] for number in numbers[key]])
    if not files:
        in_words = f"{without['equal']} because all samples have the same score" + "".join(
            f", {without[reason]} because {why}"
            for reason, why in (
                ("identical", "the best and the worst are the same text"),
                ("unscored", "fewer than two have a score"),
            )
            if without[reason]
        )
        raise DataError(
            f"None of the {counted(len(rows), 'prompt')} gives a pair: {in_words}. "
            + (f"The mean score is {mean:.4g}. " if mean is not None else "")
            + f"The samples are kept in {folder / _SAMPLES}. Try more samples (`--num_generations`), another `--stage` or "
            "another `--scorer`, and name another folder with `--output`."
        )
    done = dataclasses.replace(
        found,
        pairs=len(rows) - sum(without.values()),
        without_pair=dict(without),
        mean_score=mean,
        truncated=dict(truncated),
    )
    checksums = {path.name: checksum for path, checksum in files.items()}
    checksums["README.md"] = write_text(folder / "README.md", scored_pairs_card(done))
    manifest = {"about": _ABOUT, "made_from": made_from, "result": dataclasses.asdict(done)}
    listed = {name: [one.size, one.sha256] for name, one in checksums.items()}
    write_json(folder / PAIRS_MANIFEST, {**manifest, "files": listed})
