"""What this process knows about a run's models, so that it can tell which of them a server has: log-probs of real responses.

They are computed in the way that the trainer computes them, for the model that is to answer and for those that a server may
still have instead of it.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from datasets import Dataset

from ...config.iteration import SPINConfig
from ...errors import DataError, DivergedError
from ...generation.completions.weights import Logprobs, WeightsComparison, compare
from ...run.journal import MEASURED_SETS, Entry, Step
from ...run.run import Run, stages_with_model
from ...run.stage import SELF_PLAY, START, Stage
from ...training.start_logps import PromptAndResponse

ComparedPairs = Sequence[PromptAndResponse]
"""Token ids of prompts, and of responses to them."""

ScoreUnder = Callable[[str, ComparedPairs], Logprobs]
"""A function that returns the log-probs of responses' tokens under the model in a folder, or with a name on the Hub."""

COMPARED_TOKENS = 2_000
"""Number of tokens that are compared, if the data has as many."""

MOST_OF_ONE_RESPONSE = 256
"""Largest number of tokens of one response that are compared, so that several responses are."""


@dataclass(frozen=True)
class KnownWeights:
    """The log-probs of the same responses under the models that a server could have.

    Attributes:
        expected: name of the model that is to answer.
        pairs: prompts and real responses.
        models: log-probs of the responses' tokens by model.
    """

    expected: str
    pairs: ComparedPairs
    models: dict[str, Logprobs]

    @classmethod
    def of(cls, run: Run, path: str, score: ScoreUnder) -> KnownWeights:
        """Compute them.

        Args:
            run: the run, whose data is prepared.
            path: folder or Hub name of the model that is to answer.
            score: function that loads a model and returns log-probs.

        Raises:
            DataError: if no row is short enough to be scored.
            DivergedError: if the logits of the model that is to answer are NaN.
        """
        pairs = responses_to_compare(run.rows(), run.args)
        (expected, _), *others = models_to_tell_apart(run, path).items()
        models = {expected: score(path, pairs)}
        for name, other in others:
            with contextlib.suppress(DivergedError):  # a server with such a model agrees with none
                models[name] = score(other, pairs)
        return cls(expected, pairs, models)

    @property
    def tokens(self) -> int:
        """The number of tokens that are compared."""
        return sum(len(response) for _, response in self.pairs)

    def compare(self, served: Logprobs) -> WeightsComparison:
        """Compare the log-probs that a server gives to the responses."""
        return compare(self.expected, self.models, served)


def responses_to_compare(rows: Dataset, args: SPINConfig) -> ComparedPairs:
    """Return prompts with the beginnings of their real responses, [`COMPARED_TOKENS`] tokens of them, or all that there are.

    A server samples one more token, so prompt and response together are shorter than `max_length`.

    Args:
        rows: prepared rows.
        args: settings of the run.

    Raises:
        DataError: if there is no such row.
    """
    # Any order does, as long as it is not the file's, in which neighbours are similar.
    order = random.Random(args.seed).sample(range(len(rows)), len(rows))
    pairs: list[tuple[list[int], list[int]]] = []
    tokens = 0
    for index in order:
        row = rows[index]
        prompt, real = row["prompt_ids"], row["real_ids"]
        room = MOST_OF_ONE_RESPONSE if args.max_length is None else args.max_length - 1 - len(prompt)
        response = real[: min(room, MOST_OF_ONE_RESPONSE)] if room > 0 else []
        if prompt and response:
            pairs.append((prompt, response))
            tokens += len(response)
        if tokens >= COMPARED_TOKENS:
            break
    if not pairs:
        raise DataError(
            "Which weights the servers have can't be told: with every row, prompt and response reach `max_length` "
            f"({args.max_length}) before there is a token to compare. Raise `max_length`, or use `engine: transformers`."
        )
    return pairs


def models_to_tell_apart(run: Run, path: str) -> dict[str, str]:
    """Return the model that is to answer, and those that a server may still have, by the names of their stages.

    These are the start, the model that the expected one was trained from, the newest one of self-play, and the one that
    answered last, as far as they exist.

    Args:
        run: the run.
        path: folder or Hub name of the model that is to answer.
    """
    models = {stage: run.model_of(stage) for stage in stages_with_model(run)}
    expected = next((stage for stage, model in models.items() if model == path), None)
    others = [
        START,
        *[stage for stage in models if stage.arm == SELF_PLAY][-1:],
        *_answered_last(run.journal.entries()),
    ]
    if expected is not None:
        others.insert(1, _trained_from(run, expected))
    found = {path if expected is None else str(expected): path}
    return found | {str(stage): models[stage] for stage in others if stage in models and models[stage] != path}


def _trained_from(run: Run, stage: Stage) -> Stage:
    is_iteration = stage.arm == SELF_PLAY and stage.iteration >= 0
    return run.decisions.opponent(stage.iteration) if is_iteration else stage.before


def _answered_last(entries: Sequence[Entry]) -> list[Stage]:
    """Return the stage whose model answered last according to the journal, if any has.

    Its servers may still have it. It may be of a baseline arm, whose models can be closer to each other than to any other.
    """
    for entry in reversed(entries):
        if entry["phase"] == Step.GENERATE and entry.get("opponent") is not None:
            return [Stage(entry["opponent"])]
        if entry["phase"] in (Step.EVALUATE, *MEASURED_SETS):
            return [Stage(entry["stage"])]
    return []
