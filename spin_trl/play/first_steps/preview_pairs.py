"""Prepares the preference pairs of a recipe as DPOTrainer will tokenise them, without loading the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from ...config.dpo_on_top import dpo_config
from ...config.recipe import Recipe
from ...data.arrow import rows_of
from ...data.bad_rows import SKIP, BadRows
from ...data.preferences import Pairs, check_pairs, explicit, read_pairs
from ...data.template.pair_template import PairTemplate
from ...errors import DataError
from ...quiet import quiet
from ...training.pair_ends import difference_in_ends, tokens_of_dpo
from .pieces import Limit, Piece, decoded_text, in_pieces

MOST_PAIRS = 2000
"""Number of pairs that are checked, unless all are requested."""


@dataclass(frozen=True)
class ShownPair:
    """A preference pair in pieces, or without them the reason it is left out.

    Attributes:
        number: number of the pair in the data (0-based).
        tokens: numbers of tokens of the prompt, the chosen and the rejected response.
        prompt, chosen, rejected: pieces of each part. A prompt that is truncated together with its response is shown as it
            is with the chosen one.
        cut: numbers of tokens truncated by `max_length`, with the chosen and with the rejected response.
        problem: why the pair is left out; None if it is used.
    """

    number: int
    tokens: tuple[int, int, int] = (0, 0, 0)
    prompt: list[Piece] = field(default_factory=list)
    chosen: list[Piece] = field(default_factory=list)
    rejected: list[Piece] = field(default_factory=list)
    cut: tuple[int, int] = (0, 0)
    problem: str | None = None


@dataclass(frozen=True)
class PreviewedPairs:
    """The preference pairs for DPO on top.

    Attributes:
        total: number of rows of the data.
        checked: number of these rows, from the first on, that were checked.
        used: number of those that DPO can train on, before the pairs of held-out and test prompts are left out.
        shown: the requested pairs.
        most: `max_length` of DPO, or None.
        remarks: sentences about rows that are left out, and on how DPOTrainer's tokens differ from self-play's.
        refusals: reasons a run would refuse these pairs.
    """

    total: int
    checked: int
    used: int
    shown: list[ShownPair]
    most: int | None
    remarks: list[str]
    refusals: list[str]


def preview_pairs(
    recipe: Recipe, template: PairTemplate, wanted: range, *, every: bool = False
) -> PreviewedPairs | None:
    """Prepare the preference pairs of a recipe as DPOTrainer does; None without `dpo_name`.

    Args:
        recipe: the recipe.
        template: template of the run.
        wanted: numbers of the pairs to show (0-based); those that do not exist are left out.
        every: check all pairs, however many there are.

    Raises:
        DataError: if the data has no pairs. Pairs that can't be used do not raise; they are named in `refusals`.
    """
    stored = recipe.data.pairs()
    if stored is None:
        return None
    stored = check_pairs(stored)
    total, args = len(stored), dpo_config(recipe.args, recipe.play)
    checked = total if every else min(total, max(MOST_PAIRS, wanted.stop))
    wanted, refusals = range(min(wanted.start, total), min(wanted.stop, total)), list[str]()
    limit = Limit(args.max_length, keeps_start=args.truncation_mode == "keep_start")
    found: Pairs | None = None
    for policy in (BadRows(recipe.args.bad_rows, recipe.args.bad_rows_max), BadRows(SKIP, max(checked, 1))):
        try:
            with quiet("spin_trl"):  # what it warns about are remarks
                found = read_pairs(stored.select(range(checked)), policy)
            break
        except DataError as error:
            refusals.append(str(error))
    if found is None:
        return PreviewedPairs(total, checked, 0, [], args.max_length, [], refusals[:1])
    # A refusal already names the rows that can't be used.
    remarks = [one for one in found.remarks if not (refusals and "`bad_rows: skip`" in one)]
    ends = difference_in_ends(found.rows, template.tokenizer, template)
    places = {number: place for place, number in enumerate(found.numbers)}
    shown = [_shown_pair(found, places.get(number), number, template.tokenizer, limit) for number in wanted]
    remarks += [ends] if ends is not None else []
    return PreviewedPairs(total, checked, len(found.rows), shown, args.max_length, remarks, refusals)


def _shown_pair(
    found: Pairs, place: int | None, number: int, tokenizer: PreTrainedTokenizerBase, limit: Limit
) -> ShownPair:
    if place is None:
        return ShownPair(number, problem="its responses are equal, or it can't be used.")
    rows = found.rows.select([place])
    tokens, row = tokens_of_dpo(rows, tokenizer), next(rows_of(rows))
    prompt, chosen, rejected = (tokens[f"{part}_ids"][0] for part in ("prompt", "chosen", "rejected"))
    sizes = len(prompt), len(chosen), len(rejected)
    if limit.keeps_start and limit.most is not None and sizes[0] >= limit.most:
        return ShownPair(
            number,
            sizes,
            problem=f"its prompt has {limit.most} tokens (`max_length`) or more: no room for a response.",
        )
    pieces = {}
    for name, response in (("chosen", chosen), ("rejected", rejected)):
        whole = decoded_text(tokenizer, [*prompt, *response])
        pieces[name], _ = in_pieces(tokenizer, prompt, response, limit, whole, _own_spans(whole, explicit(row), name))
    return ShownPair(
        number,
        sizes,
        prompt=[piece for piece in pieces["chosen"] if piece.is_prompt],
        chosen=[piece for piece in pieces["chosen"] if not piece.is_prompt],
        rejected=[piece for piece in pieces["rejected"] if not piece.is_prompt],
        cut=(limit.beyond(sizes[0] + sizes[1]), limit.beyond(sizes[0] + sizes[2])),
    )


def _own_spans(whole: str, pair: Mapping[str, Any], name: str) -> list[tuple[int, int]]:
    """Return where a pair's own texts are in the text of its tokens; all of it, if they can't be found."""
    spans: list[tuple[int, int]] = []
    for part in ("prompt", name):
        value = pair[part]
        # Templates often strip the content of a message.
        for text in [value] if isinstance(value, str) else [_content(message).strip() for message in value]:
            start = whole.find(text, spans[-1][1] if spans else 0)
            if start < 0:
                return [(0, len(whole))]
            spans.append((start, start + len(text)))
    return spans


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else ""
