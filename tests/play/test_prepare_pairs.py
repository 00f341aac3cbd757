"""The pairs of DPO on top are prepared once, without held-out prompts, and are fixed once a model was trained."""

from pathlib import Path
from typing import Any

from datasets import load_from_disk

import tiny
from messages import names
from runs import build, journal
from spin_trl.play.prepare_pairs import trained_stages


def prepared(model: Path, pairs: Any) -> Any:
    session = build(model, num_iterations=1, then_dpo="best", dpo_dataset=pairs)
    session.run_phase("start", 0)
    return session


def test_pairs_may_change_until_a_model_was_trained(llama_folder: Path) -> None:
    """They are prepared again only if they have changed or were lost; the newest rows are used."""
    for pairs in (tiny.preference(20), tiny.preference(20), tiny.preference(24)):
        session = prepared(llama_folder, pairs)
    found = [entry for entry in journal() if (entry["phase"], entry["stage"]) == ("prepare", "dpo")]
    assert [entry["rows"] + entry["overlap"] for entry in found] == [20, 24]
    assert len(load_from_disk("run/data/dpo")) == found[-1]["rows"]
    assert trained_stages(session.state) == []
    session.state.directory.own("dpo/start/train").mkdir(parents=True)
    assert trained_stages(session.state) == ["dpo/start"]


def test_a_line_says_how_the_ends_differ(llama_folder: Path) -> None:
    """The tokenizer's template writes a newline after the end of a turn, which DPOTrainer trains on."""
    prepared(llama_folder, tiny.preference(20, conversational=True))
    (found,) = [entry for entry in journal() if (entry["phase"], entry["stage"]) == ("prepare", "dpo")]
    assert any(names(remark, "DPOTrainer", r"'\n'") for remark in found["remarks"])
