"""Prints a preview on the terminal: colours, or marks without colours, show what was added and what is truncated."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from ...counts import agreeing, counted
from ...data.notes import FIELD
from ...errors import visible
from .pieces import Piece
from .preview import Counts, Preview, ShownResponse
from .preview_pairs import PreviewedPairs, ShownPair

Marks = tuple[str, str, str]
"""Marks before and after text added by the chat template or the tokenizer, and the mark on both sides of truncated text."""

MARKS: Marks = ("⟦", "⟧", "✂")

ASCII_MARKS: Marks = ("[[", "]]", "~~")
"""Marks to use if the encoding of the terminal or file lacks the others."""

MOST_CHARACTERS = 1200
"""Number of characters of a prompt or response that are shown by default: its beginning and its end."""

_ADDED_STYLE, _SPECIAL_STYLE, _CUT_STYLE = "cyan", "bold magenta", "red strike"


def show_preview(console: Console, found: Preview, *, full: bool = False) -> None:
    """Print a preview.

    Args:
        console: console to print to.
        found: the preview.
        full: print long texts in full.
    """
    shows_colours = console.color_system is not None and not console.no_color and console.is_terminal
    usual = MARKS if console.encoding.startswith("utf") else ASCII_MARKS
    marks = None if shows_colours else usual
    _print_line(console, _title(found))
    _print_line(console, _legend(marks))
    for shown in found.shown:
        console.print()
        _show_response(console, found, shown, marks=marks, full=full)
    for pair in found.pairs.shown if found.pairs is not None else ():
        console.print()
        _show_pair(console, pair, marks=marks, full=full)
    console.print()
    for line in _summary(found):
        _print_line(console, line)


def _print_line(console: Console, text: str | Text) -> None:
    console.print(text, highlight=False, soft_wrap=True)


def _title(found: Preview) -> str:
    args, name = found.recipe.args, found.recipe.model.model_name_or_path
    rows = f"all {found.total:,} rows" if found.total > 1 else "its only row"
    looked = f"{found.counted:,} of {found.total:,} rows (`--all` counts all)" if found.is_sample else rows
    tokenizer = "the tokenizer that a run trains on the data" if name is None else f"the tokenizer of {name}"
    if name is None and found.is_sample:
        tokenizer += " (here trained on the counted rows only)"
    template = "with its chat template"
    if not found.has_template:
        template = "without a chat template: plain text is continued"
        if found.tokenizer.chat_template is not None and name is not None:
            template += " (`as_conversations: true` applies the chat template)"
    ends = " or ".join(found.ends)
    limit = "no `max_length`" if args.max_length is None else f"`max_length` {args.max_length:,}"
    return (
        f"Data: {found.recipe.data.dataset_name}, {looked}. Columns read: {', '.join(found.columns)}.\n"
        f"Tokens: from {tokenizer}, {template}; {limit}. A response ends with {ends}."
    )


def _legend(marks: Marks | None) -> Text:
    if marks is not None:
        begins, ends, cut = marks
        return Text(
            f"{begins}...{ends} is added by the template or the tokenizer; {cut}...{cut} is truncated by `max_length`."
        )
    return Text.assemble(
        ("added by the template or the tokenizer", _ADDED_STYLE),
        ", ",
        ("special tokens", _SPECIAL_STYLE),
        ", ",
        ("truncated by `max_length`", _CUT_STYLE),
    )


def _show_response(console: Console, found: Preview, shown: ShownResponse, *, marks: Marks | None, full: bool) -> None:
    one = shown.encoded
    title = f"Row {one.row}"
    if not shown.pieces:
        why = one.problem if one.is_bad else _too_long(found)
        _print_line(console, Text(f"{title} is left out: {visible(why)}", style="bold"))
        return
    prompt, real = len(one.prompt_ids), len(one.real_ids)
    cut = f", {shown.cut:,} truncated" if shown.cut else ""
    sizes = f"{prompt:,} + {real:,} = {counted(prompt + real, 'token')}{cut}"
    _print_line(console, Text(f"{title}: {sizes}", style="bold"))
    for heading, is_prompt in (("prompt", True), ("real response", False)):
        _print_line(console, Text(f"--- {heading}", style="dim"))
        pieces = [piece for piece in shown.pieces if piece.is_prompt is is_prompt]
        _print_line(console, _written(pieces if full else _shortened(pieces), marks=marks))
    noted = [note for note in one.notes if not note.startswith(FIELD)]
    if not shown.is_traced:
        noted.append("the tokenizer changes the text, so what the template adds can't be shown")
    if noted:
        _print_line(console, Text(f"--- {'; '.join(noted)}", style="yellow"))


def _show_pair(console: Console, pair: ShownPair, *, marks: Marks | None, full: bool) -> None:
    title = f"Preference pair {pair.number}"
    if pair.problem is not None:
        _print_line(console, Text(f"{title} is left out: {visible(pair.problem)}", style="bold"))
        return
    prompt, chosen, rejected = (f"{count:,}" for count in pair.tokens)
    cut = f", {max(pair.cut):,} truncated" if any(pair.cut) else ""
    sizes = f"{prompt} + {chosen} tokens (chosen), {prompt} + {rejected} (rejected){cut}, as DPOTrainer tokenises it"
    _print_line(console, Text(f"{title}: {sizes}", style="bold"))
    for heading, pieces in (("prompt", pair.prompt), ("chosen", pair.chosen), ("rejected", pair.rejected)):
        _print_line(console, Text(f"--- {heading}", style="dim"))
        _print_line(console, _written(pieces if full else _shortened(pieces), marks=marks))


def _too_long(found: Preview) -> str:
    return f"its prompt has {found.recipe.args.max_length} tokens (`max_length`) or more: no room for a response."


def _shortened(pieces: list[Piece]) -> list[Piece]:
    """Shorten pieces that are long in total to their beginning and end."""
    length = sum(len(piece.text) for piece in pieces)
    if length <= MOST_CHARACTERS:
        return pieces
    head, tail = MOST_CHARACTERS * 2 // 3, length - MOST_CHARACTERS // 3
    found: list[Piece] = []
    place = 0
    for piece in pieces:
        start, stop = place, place + len(piece.text)
        place = stop
        if start < head:
            found.append(_part_of_piece(piece, 0, head - start))
        if start <= head < stop:
            found.append(_part_of_piece(piece, 0, 0, f" [... {tail - head:,} characters, `--full` shows them ...] "))
        if stop > tail:
            found.append(_part_of_piece(piece, max(tail - start, 0), len(piece.text)))
    return found


def _part_of_piece(piece: Piece, start: int, stop: int, text: str | None = None) -> Piece:
    written = piece.text[start:stop] if text is None else text
    return Piece(written, piece.is_prompt, piece.is_added, piece.is_special, piece.is_cut)


def _written(pieces: list[Piece], *, marks: Marks | None) -> Text:
    """Join pieces into one text, with colours or marks; the marks of added text go inside those of truncated text."""
    text = Text()
    was_added = was_cut = False
    for piece in [*pieces, Piece("", is_prompt=False)]:
        if marks is not None and (piece.is_added, piece.is_cut) != (was_added, was_cut):
            begins, ends, cut = marks
            text.append(ends if was_added else "")
            text.append(cut if was_cut != piece.is_cut else "")
            text.append(begins if piece.is_added else "")
        was_added, was_cut = piece.is_added, piece.is_cut
        style = _CUT_STYLE if piece.is_cut else _SPECIAL_STYLE if piece.is_special else _ADDED_STYLE
        text.append(visible(piece.text), style if piece.is_cut or piece.is_special or piece.is_added else "")
    return text


def _summary(found: Preview) -> list[str]:
    counts = found.counts
    if counts is None:
        return []
    # Long, since it has a line for everything that is counted.
    lines = [_lengths_in_words(counts)]
    kept = len(counts.lengths[0])
    of = counted(found.counted, "counted row" if found.is_sample else "row")
    left_out = []
    if counts.too_long:
        left_out.append(f"{counts.too_long:,} whose prompt has `max_length` tokens or more")
    if counts.bad:
        left_out.append(f"{len(counts.bad):,} that can't be used")
    are = agreeing(counts.too_long + len(counts.bad), "is", "are")
    out = f"; {' and '.join(left_out)} {are} left out" if left_out else ""
    lines.append(f"Responses: {kept:,} of {of}{out}.")
    if found.recipe.args.max_length is not None:
        share = counts.cut / kept
        lines.append(f"Truncated by `max_length`: {counts.cut:,} of {counted(kept, 'response')} ({share:.1%}).")
    if found.train or found.held_out:
        lines.append(_division(found))
    words = {"test_name": "Tested on at the end", "retain_name": "Retention"}
    most = {"test_name": None, "retain_name": found.recipe.play.retain_max}
    for name, count in found.measured.items():
        limit = most[name]
        used = "" if limit is None or count <= limit else f", {limit:,} of which are measured (`retain_max`)"
        lines.append(f"{words[name]}: {counted(count, 'row')}{used}.")
    lines += [_pairs_in_words(found.pairs)] if found.pairs is not None else []
    lines += found.remarks
    return [visible(line) for line in lines]


def _pairs_in_words(pairs: PreviewedPairs) -> str:
    of = f"{pairs.used:,} of {counted(pairs.total, 'row')}"
    if pairs.checked < pairs.total:
        of = f"{pairs.used:,} of the first {pairs.checked:,} of {counted(pairs.total, 'row')} (`--all` checks all)"
    return f"Preference pairs for DPO on top: {of}. A run also leaves out those with held-out or test prompts."


def _lengths_in_words(counts: Counts) -> str:
    parts = []
    for name, lengths in zip(("prompts", "real responses"), counts.lengths, strict=True):
        middle, most = lengths[len(lengths) // 2], lengths[-1]
        many = lengths[min(int(0.95 * len(lengths)), len(lengths) - 1)]
        parts.append(f"{name} {middle:,} (median), {many:,} (95 %), {most:,} (longest)")
    return f"Lengths in tokens: {'; '.join(parts)}."


def _division(found: Preview) -> str:
    if found.held_out_total is not None:
        own = f"the held-out data has {counted(found.held_out_total, 'row')}"
        if found.is_sample:
            return f"Held out: {own}."
        return f"Held out: {counted(found.held_out, 'row')} ({own}); trained on: {found.train:,}."
    if not found.is_sample:
        return f"Held out: {counted(found.held_out, 'row')}; trained on: {found.train:,}."
    play = found.recipe.play
    return f"Held out: {play.held_out_fraction:.0%} of the prompts, at most {play.held_out_max:,}."
