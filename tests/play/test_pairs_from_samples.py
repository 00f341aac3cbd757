"""Preference pairs from scored samples match pairs computed from the stored tokens without the package's code."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
import yaml
from datasets import Dataset, load_dataset, load_from_disk
from trl import DPOConfig, DPOTrainer

import runs
import tiny
from completion_server import serving
from judge_server import JudgeServer, all_at
from messages import names, refused
from spin_trl.cli import main
from spin_trl.config.data import DataConfig
from spin_trl.data.columns import is_preference
from spin_trl.errors import DataError, LaunchError, RecipeError, RunDirectoryError
from spin_trl.generation.store import GenerationStore
from spin_trl.play import pairs_from_samples
from spin_trl.play.answering import at_hand
from spin_trl.play.pairs_from_samples import PairsWanted, make_scored_pairs, open_with_scorer
from spin_trl.run.directory import RunDirectory

SCORER = "regex:[aeiou]{2}|w"
"""Right if two vowels follow each other, or there is a w: true of some of the tiny model's samples."""


def prepared(folder: Path, model: Path, rows: Dataset | None = None, **settings: Any) -> Path:
    """Return a run whose start has been evaluated, and nothing else."""
    recipe = runs.recipe(folder, model, rows, **settings)
    assert main(["start", str(recipe)]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def run_dir(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run on conversations, in which one prompt occurs twice."""
    rows = tiny.sft(15, "messages").to_list()
    rows.append({"messages": [rows[0]["messages"][0], {"role": "assistant", "content": "Another answer."}]})
    return prepared(tmp_path_factory.mktemp("pairs"), llama_folder, Dataset.from_list(rows))


def make(run_dir: Path, output: Path | None = None, scorer: str = SCORER, **wanted: Any) -> tuple[Path, Any]:
    run = open_with_scorer(str(run_dir), [], scorer)
    asked = PairsWanted([scorer], **{"stage": "start", "num_generations": 4, **wanted})
    return make_scored_pairs(run, asked, output)


def samples_of(folder: Path) -> dict[str, list[str]]:
    """Return the texts of all samples by key, read and decoded without the package's code."""
    found: dict[str, dict[int, str]] = {}
    for (key, sample), ids in runs.answers(folder, ".", ".samples").items():
        found.setdefault(key, {})[sample] = tiny.tokenizer().decode(ids, skip_special_tokens=True)
    return {key: [texts[number] for number in sorted(texts)] for key, texts in found.items()}


def pairs_in(folder: Path) -> Dataset:
    return load_dataset(str(folder), split="train")


def test_the_best_sample_is_chosen_and_the_worst_is_rejected(run_dir: Path, tmp_path: Path) -> None:
    """There is one pair per prompt, with the first sample in a tie, and none if all samples score the same."""
    folder, found = make(run_dir, tmp_path / "pairs")
    rows = {row["key"]: row for row in load_from_disk(str(run_dir / "data/train"))}
    expected, without, scored = {}, 0, []
    for key, texts in samples_of(folder).items():
        scores = [float(re.search("[aeiou]{2}|w", text) is not None) for text in texts]
        scored += scores
        if 0.0 in scores and 1.0 in scores:
            expected[key] = texts[scores.index(1.0)], texts[scores.index(0.0)]
        else:
            without += 1
    assert expected
    assert without, "the test needs both"
    pairs = pairs_in(folder)
    assert {pair["key"]: (pair["chosen"][0]["content"], pair["rejected"][0]["content"]) for pair in pairs} == expected
    assert [pair["prompt"] for pair in pairs] == [
        [{"role": "user", "content": rows[key]["prompt"]}] for key in pairs["key"][:]
    ]
    assert set(pairs["chosen_score"]) == {1.0}
    assert set(pairs["rejected_score"]) == {0.0}
    assert (found.prompts, found.pairs) == (len(expected) + without, len(expected))
    assert found.without_pair == {"equal": without, "identical": 0, "unscored": 0}
    assert found.mean_score == pytest.approx(sum(scored) / len(scored))
    assert found.repeated == len(rows) - found.prompts


def test_only_training_prompts_are_answered_and_each_once(run_dir: Path, tmp_path: Path) -> None:
    folder, found = make(run_dir, tmp_path / "pairs", num_generations=2)
    keys = set(samples_of(folder))
    train, held_out = (load_from_disk(str(run_dir / "data" / name)) for name in ("train", "held-out"))
    assert keys <= set(train["key"])
    assert len(held_out)
    assert not keys & set(held_out["key"])
    assert len(keys) == found.prompts == len(set(train["prompt_hash"]))


def test_a_larger_draw_of_prompts_includes_a_smaller_one(run_dir: Path, tmp_path: Path) -> None:
    few, more = (set(samples_of(make(run_dir, tmp_path / str(n), max_prompts=n)[0])) for n in (5, 8))
    assert (len(few), len(more)) == (5, 8)
    assert few < more


def test_samples_have_the_runs_own_settings(run_dir: Path, tmp_path: Path) -> None:
    folder, made = make(run_dir, tmp_path / "pairs", seed=7)
    assert made.sampling["engine"] == f"transformers {transformers.__version__}"
    sampling = json.loads((folder / ".samples/generations.json").read_text(encoding="utf-8"))["sampling"]
    assert (sampling["max_new_tokens"], sampling["batch_size"], sampling["temperature"]) == (8, 4, 1.0)
    assert (sampling["num_generations"], sampling["seed"]) == (4, 7)


def test_pairs_say_what_they_are(run_dir: Path, tmp_path: Path) -> None:
    """Manifest and card say that these are model samples ranked by this scorer."""
    folder, found = make(run_dir, tmp_path / "pairs")
    manifest = json.loads((folder / ".pairs.json").read_text(encoding="utf-8"))
    assert manifest["made_from"]["scorer"] == [SCORER]
    assert manifest["made_from"]["stage"] == "start"
    assert manifest["result"]["pairs"] == found.pairs
    assert names(manifest["about"], "scorer", "human")
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert names(card, "`start`", f"`{SCORER.replace('|', chr(92) + '|')}`", "`chosen_score`")
    assert str(run_dir.parent) not in card + json.dumps(manifest), "a machine's paths"


def test_pairs_are_kept_in_the_run_and_belong_to_it(run_dir: Path, llama_folder: Path) -> None:
    folder, _ = make(run_dir, max_prompts=6)
    assert folder.parent == run_dir / "pairs"
    assert folder.name.endswith("-start")
    marker = json.loads((run_dir / ".spin_trl.json").read_text(encoding="utf-8"))
    assert marker["entries"]["pairs"] == "pairs"


@pytest.mark.parametrize("kind", ["messages", "prompt-completion"])
def test_dpo_trainer_takes_the_pairs(
    kind: Any, tmp_path: Path, llama_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Conversations stay conversations and text stays text; it sees the run's own prompt tokens, and the sampled
    responses.
    """
    run = prepared(tmp_path, llama_folder, tiny.sft(15, kind))
    folder, _ = make(run, tmp_path / "pairs")
    assert is_preference(DataConfig(dataset_name=str(folder)).train())
    assert not any(names(message, folder) for message in caplog.messages), "all data files of the folder are read"
    pairs = pairs_in(folder)
    args = DPOConfig("dpo", use_cpu=True, bf16=False, report_to="none", disable_tqdm=True)
    trainer = DPOTrainer(str(llama_folder), args=args, train_dataset=pairs, processing_class=tiny.tokenizer())
    rows = {row["key"]: row for row in load_from_disk(str(run / "data/train"))}
    samples = runs.answers(folder, ".", ".samples")
    for pair, tokens in zip(pairs, trainer.train_dataset, strict=True):
        assert tokens["prompt_ids"] == rows[pair["key"]]["prompt_ids"]
        for side in ("chosen", "rejected"):
            sample = samples[pair["key"], pair[f"{side}_sample"]]
            text = tiny.tokenizer().decode(sample, skip_special_tokens=True)
            seen = tiny.tokenizer().decode(tokens[f"{side}_ids"])
            assert seen.removesuffix("\n") == text + tiny.IM_END


@pytest.mark.parametrize("where", ["sampling", "scoring", "writing"])
def test_an_interrupted_command_resumes_to_the_same_bytes(
    where: str, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = make(run_dir, tmp_path / "whole")
    written: list[int] = []
    write = GenerationStore.write_shard

    def interrupt(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    def write_two(store: GenerationStore, number: int, responses: Any) -> None:
        written.append(number)
        return write(store, number, responses) if len(written) <= 2 else interrupt()

    with monkeypatch.context() as patch:
        if where == "sampling":
            patch.setattr(GenerationStore, "write_shard", write_two)
        patch.setattr(pairs_from_samples, "scores_of" if where == "scoring" else "write_text", interrupt)
        with pytest.raises(KeyboardInterrupt):
            make(run_dir, tmp_path / "pairs")
    samples = runs.contents(tmp_path / "pairs/.samples", ignore=("checksums.jsonl",))
    assert len(samples) > 2
    folder, _ = make(run_dir, tmp_path / "pairs")
    assert runs.contents(folder, ignore=("checksums.jsonl",)) == runs.contents(whole, ignore=("checksums.jsonl",))
    assert samples.items() <= runs.contents(folder / ".samples").items()


@pytest.mark.slow
def test_a_judge_ranks_samples(tmp_path: Path, llama_folder: Path) -> None:
    """Its mean is the number that ranks, and all samples are asked about at the same time."""
    with serving(JudgeServer(judgement=lambda prompt, answers: all_at(1 + len(answers[0]) % 5), delay=0.02)) as server:
        judge = {"judge_url": server.v1, "judge_model": "wise"}
        run_dir = prepared(tmp_path / "judged", llama_folder, **judge)
        with refused(RecipeError, "`--score`", "'judge.cleer'", "judge.clear"):
            make(run_dir, scorer="judge", score="judge.cleer")
        assert server.most == 0
        folder, _ = make(run_dir, scorer="judge")
        assert server.most > 1
    assert (run_dir / "judge.jsonl").is_file()
    pairs = pairs_in(folder)
    assert len(pairs) > 0
    for row in pairs:
        assert len(row["chosen"]) % 5 > len(row["rejected"]) % 5
        assert row["chosen_score"] == len(row["chosen"]) % 5 / 4


def test_finished_pairs_are_not_made_again(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damaged ones are rebuilt from their samples, without the model."""
    folder, found = make(run_dir, tmp_path / "pairs")
    before = runs.contents(folder)

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("it works again")

    monkeypatch.setattr(at_hand, "load_policy", refuse)
    with monkeypatch.context() as patch:
        patch.setattr(pairs_from_samples, "scores_of", refuse)
        assert make(run_dir, folder) == (folder, found)
    (folder / "train-00000.parquet").write_bytes(b"damaged")
    assert make(run_dir, folder) == (folder, found)
    assert runs.contents(folder) == before


def test_other_pairs_are_never_replaced(run_dir: Path, tmp_path: Path) -> None:
    folder, _ = make(run_dir, tmp_path / "pairs")
    before = runs.contents(folder)
    with refused(RunDirectoryError, folder, "num_generations", "4", "5", "`--output`"):
        make(run_dir, folder, num_generations=5)
    with refused(RunDirectoryError, folder, "scorer", "`--output`"):
        make(run_dir, folder, scorer="regex:e")
    assert runs.contents(folder) == before


def test_a_rubric_ranks_the_samples(run_dir: Path, tmp_path: Path) -> None:
    """By its mean; pairs of another rubric are other pairs. A run without a rubric is given one."""
    file = tmp_path / "rubric.yaml"
    criteria: list[dict[str, Any]] = [
        {"name": "vowels", "weight": 2, "required": "[aeiou]{2}"},
        {"name": "w", "required": "w"},
    ]
    file.write_text(yaml.safe_dump({"criteria": criteria}), encoding="utf-8")
    asked = PairsWanted(["rubric"], stage="start", num_generations=4)
    folder, found = make_scored_pairs(
        open_with_scorer(str(run_dir), [], "rubric", str(file)), asked, tmp_path / "pairs"
    )
    assert found.score == "mean"
    samples = samples_of(folder)
    for pair in pairs_in(folder):
        means = [(2 * bool(re.search("[aeiou]{2}", text)) + ("w" in text)) / 3 for text in samples[pair["key"]]]
        assert (pair["chosen_score"], pair["rejected_score"]) == pytest.approx((max(means), min(means)))
    file.write_text(yaml.safe_dump({"criteria": criteria[:1]}), encoding="utf-8")
    with refused(RunDirectoryError, folder, "rubric", "`--output`"):
        make_scored_pairs(open_with_scorer(str(run_dir), [], "rubric", str(file)), asked, folder)
    with refused(RecipeError, "`scorer: rubric`", "`rubric`"):
        open_with_scorer(str(run_dir), [], "rubric")
    with refused(RecipeError, "`--rubric`", "json"):
        open_with_scorer(str(run_dir), [], "json", str(file))


def test_a_folder_with_other_files_is_refused(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine", encoding="utf-8")
    with refused(RunDirectoryError, tmp_path / "mine", "notes.txt", "`--output`"):
        make(run_dir, tmp_path / "mine")


def test_without_any_pair_the_samples_are_kept(run_dir: Path, tmp_path: Path) -> None:
    with refused(DataError, "`--num_generations`", "`--stage`", "`--scorer`", tmp_path / "pairs/.samples"):
        make(run_dir, tmp_path / "pairs", scorer="regex:never to be found", max_prompts=4)
    assert GenerationStore(tmp_path / "pairs/.samples").is_complete()
    assert not list((tmp_path / "pairs").glob("*.parquet"))


@pytest.mark.parametrize(
    ("scorer", "parts"),
    [
        ("gsm8l", ("'gsm8l'", "'gsm8k'")),
        (None, ("`scorer`", "`--scorer`")),
        ("python_tests", ("`allow_generated_code: true`",)),
    ],
)
def test_a_scorer_that_can_not_be_had_is_refused(scorer: str | None, parts: tuple[str, ...], run_dir: Path) -> None:
    with refused(RecipeError, *parts):
        open_with_scorer(str(run_dir), [], scorer)


def test_code_that_came_with_a_directory_is_refused_until_it_is_trusted(tmp_path: Path, llama_folder: Path) -> None:
    """A scorer that the user names is the user's own; code that came with the directory needs permission."""
    directory = RunDirectory(tmp_path / "run")
    directory.claim("continue")
    settings = {"model_name_or_path": str(llama_folder), "use_cpu": True, "bf16": False, "allow_generated_code": True}
    settings["scorer"] = "json:loads"
    directory.own("recipe.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    with refused(RunDirectoryError, "scorer", "json:loads", "`--trust_run`"):
        open_with_scorer(str(directory.path), [])
    with refused(RunDirectoryError, "allow_generated_code", "`--trust_run`"):
        open_with_scorer(str(directory.path), [], "python_tests")
    assert open_with_scorer(str(directory.path), [], "json:dumps").scorer is json.dumps
    assert open_with_scorer(str(directory.path), [], trust_run=True).scorer is json.loads
    assert open_with_scorer(str(directory.path), []).scorer is json.loads, "consent is remembered"


def test_what_can_not_give_pairs_is_refused_before_a_model_is_loaded(
    run_dir: Path, tmp_path: Path, llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(at_hand, "load_policy", refuse)
    with refused(RecipeError, "`--score`", "'fromat'", "'format'"):
        make(run_dir, scorer="gsm8k", score="fromat")
    with refused(RunDirectoryError, "'iteration-7'"):
        make(run_dir, stage="iteration-7")
    with refused(RecipeError, "`--num_generations`", "1", "2"):
        make(run_dir, num_generations=1)
    monkeypatch.setattr(pairs_from_samples, "training_plugin", lambda: "FSDP")
    with refused(LaunchError, "FSDP"):
        make(run_dir)


def test_a_run_without_prepared_data_is_refused(tmp_path: Path, llama_folder: Path) -> None:
    run = runs.build(llama_folder, tmp_path / "run")
    run._claim_directory()
    run.directory.own("recipe.yaml").write_text(
        f"model_name_or_path: {llama_folder}\nuse_cpu: true\nbf16: false\n", encoding="utf-8"
    )
    with refused(DataError, "data/train", "`spin-trl run`"):
        make(tmp_path / "run")


def test_a_run_that_samples_greedily_is_refused(tmp_path: Path, llama_folder: Path) -> None:
    run = prepared(tmp_path, llama_folder, temperature=0.0)
    with refused(RecipeError, "`temperature`", "0"):
        make(run)


@pytest.fixture
def by_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Return a function that writes a user's own scorer, which needs a column, and returns its name."""

    def write(column: str) -> str:
        (tmp_path / "own_scorers.py").write_text(
            f"def by_{column}(prompt, real, generated, {column}):\n    return float({column} in generated)\n",
            encoding="utf-8",
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(__import__("sys").modules, "own_scorers", raising=False)
        return f"own_scorers:by_{column}"

    return write


def test_a_scorer_gets_its_columns_of_the_training_rows(
    tmp_path: Path, llama_folder: Path, by_column: Callable[[str], str]
) -> None:
    """Each row's own letter decides; the columns are read from the data again, which must be the same."""
    rows = [{**row, "letter": "aeio"[number % 4]} for number, row in enumerate(tiny.sft(15))]
    run = prepared(tmp_path / "project", llama_folder, Dataset.from_list(rows))
    scorer = by_column("letter")
    folder, _ = make(run, tmp_path / "pairs", scorer=scorer)
    letters = {row["prompt"]: row["letter"] for row in rows}
    pairs = pairs_in(folder)
    assert len(pairs)
    for pair in pairs:
        letter = letters[pair["prompt"]]
        assert letter in pair["chosen"]
        assert letter not in pair["rejected"]
    with refused(DataError, "`size`", "`column_mapping`"):
        make(run, tmp_path / "others", scorer=by_column("size"))
    assert not (tmp_path / "others").exists()
    tiny.write_jsonl(tmp_path / "project/train.jsonl", Dataset.from_list(rows[1:]))
    with refused(DataError, run, "dataset"):
        make(run, tmp_path / "others", scorer=by_column("letter"))


def test_a_run_from_python_has_no_columns_to_read(
    tmp_path: Path, llama_folder: Path, by_column: Callable[[str], str]
) -> None:
    runs.build(llama_folder, tmp_path / "run").run_phase("start", 0)
    with refused(DataError, "`letter`"):
        make(tmp_path / "run", scorer=by_column("letter"))
    folder, _ = make(tmp_path / "run")
    assert len(pairs_in(folder))
