"""A report is written from the run directory alone, in any state of the run, and stays small for large runs."""

import json
import re
import shutil
from html import unescape
from pathlib import Path

import pytest

from made_up import key, record, sample, stage, write_run
from messages import refused
from runs import build
from spin_trl import SelfPlayConfig
from spin_trl.errors import RunDirectoryError
from spin_trl.report.html.samples import MOST_OTHERS
from spin_trl.report.record import REPORTED_DEFAULTS, read_record
from spin_trl.report.write import gather, read_samples, write_report
from spin_trl.run.directory import RunDirectory

STAGES = (
    stage("start", range(20)),
    stage("iteration-0", range(40)),
    stage("iteration-1", range(60)),
    stage("baseline/sft/iteration-0", range(50)),
    stage("baseline/sft/iteration-1", range(78)),
)


def text_of(path: Path) -> str:
    """Return the visible text of a page without its plots."""
    page = re.sub(r"<(style|svg).*?</\1>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", page)).replace("\u00a0", " ").replace("\u2212", "-").split())


def report(path: Path) -> str:
    return text_of(write_report(RunDirectory(path)))


def test_a_run_as_it_was_played_is_reported_and_the_report_renewed_after_an_iteration(llama_folder):
    """The data and the models are removed, since the report does not need them."""
    build(llama_folder, "run", num_iterations=1, baseline="sft").run()
    first = report(Path("run"))
    assert "iteration 0" in first
    assert "plain SFT, iteration 0" in first
    assert "iteration 1" not in first
    build(llama_folder, "run", num_iterations=2, baseline="sft").run()
    for folder in [Path("run/data"), *Path("run").rglob("model"), *Path("run").rglob("sampled/*.parquet")]:
        shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
    second = report(Path("run"))
    assert "plain SFT, iteration 1" in second
    for part in (
        "by NLL per token",
        "Margins",
        "Prompt 1",
        "per_device_train_batch_size: 4",
        "transformers",
        "Held out 3 prompts",
    ):
        assert part in second, part
    figures = json.loads(Path("run/iteration-1/metrics.json").read_text(encoding="utf-8"))
    assert f"{figures['nll']:.3f}" in second
    manifest = json.loads(Path("run/iteration-1/held-out/sampled/generations.json").read_text(encoding="utf-8"))
    assert manifest["model"] in second
    assert "So far" not in second


def test_everything_that_was_promised_stands_in_it(tmp_path):
    gate = {"phase": "gate", "stage": "iteration-0", "decision": "improved", "opponent": "iteration-0", "time": 1.8e9}
    prepare = {
        "phase": "prepare", "stage": "data", "time": 1.8e9, "dataset": "abcd1234", "held_out_dataset": None,
        "template": "efgh5678",
        "held_out_rows": 100, "versions": {"torch": "2.13.0", "vllm": None},
    }  # fmt: skip
    evaluated = [{"phase": "evaluate", "stage": one.name, "time": 1.8e9 + 90, "seconds": 2.0} for one in STAGES]
    run = record(*STAGES, best="iteration-1", journal=[prepare, gate, *evaluated])
    found = report(write_run(tmp_path / "my-run", run, baseline="sft"))
    for part in (
        "Self-play run my-run",
        "Iteration 1 is the best of 2 by score: 60.0 % (55.0 to 65.0), 40.0 points above the start (29.5 to 48.9), but "
        "18.0 points below plain SFT after the same number of steps (10.0 to 25.3).",
        "improved",
        "training data abcd1234",
        "template efgh5678",
        "torch 2.13.0",
        "metric_for_best_iteration: score",
        "From 2027-01-15 08:00 to 2027-01-15 08:01 UTC, 1 min 30 s",
        "total – – 10.0 s 10.0 s",
    ):
        assert part in found, part
    assert "vllm" not in found


def test_the_same_directory_gives_the_same_report(tmp_path):
    path = write_run(tmp_path / "run", record(*STAGES, best="iteration-1"))
    first = write_report(RunDirectory(path)).read_bytes()
    assert write_report(RunDirectory(path)).read_bytes() == first


def test_a_run_in_any_state_has_a_report(tmp_path):
    """The files are added one at a time; one of version 0.1.0 has no marker."""
    begun = RunDirectory(tmp_path / "begun")
    begun.claim("continue")
    begun.own("recipe.yaml").write_text("dataset_name: data.jsonl\n", encoding="utf-8")
    assert "Nothing has been measured yet." in report(begun.path)
    path = tmp_path / "run"
    path.mkdir()
    (path / "recipe.yaml").write_text("dataset_name: data.jsonl\n", encoding="utf-8")
    with refused(RunDirectoryError, "journal.jsonl"):
        write_report(RunDirectory(path))
    (path / "journal.jsonl").write_text(
        '{"phase": "prepare", "stage": "data", "dataset": "d0", "held_out_rows": 100}\n{"phase": "tr', encoding="utf-8"
    )
    assert "Nothing has been measured yet." in report(path)
    write_run(path, record(STAGES[0], planned=3))
    assert "So far only the start has been measured" in report(path)
    write_run(path, record(*STAGES[:2], best="iteration-0", planned=3))
    assert "So far, iteration 0 is the best model" in report(path)
    (path / "iteration-1" / "generations").mkdir(parents=True)
    assert "iteration 1" not in report(path)


def test_a_run_without_held_out_data_has_a_report_that_says_so(tmp_path):
    prepare = {"phase": "prepare", "stage": "data", "time": 1.0, "dataset": "d0", "held_out_rows": 0}
    train = {"phase": "train", "stage": "iteration-0", "time": 2.0, "seconds": 1.0, "steps": 3}
    path = write_run(tmp_path / "run", record(stage("iteration-0"), best="iteration-0", journal=[prepare, train]))
    (path / "iteration-0").mkdir()
    found = report(path)
    assert "no prompts were held out" in found
    assert "Samples" not in found
    assert "Plots" not in found


def test_figures_that_are_no_numbers_are_dashes(tmp_path):
    nan = {name: float("nan") for name in ("score", "nll", "gap", "degeneration/repetition")}
    path = write_run(
        tmp_path / "run", record(STAGES[0], stage("iteration-0", figures={"held_out": 100.0, **nan}), best="start")
    )
    assert "NaN" in (path / "iteration-0" / "metrics.json").read_text(encoding="utf-8")
    found = report(path)
    assert "and no iteration was measured" in found
    assert "nan" not in found.replace("nano", "").lower().split()


def test_a_run_from_python_has_a_report(tmp_path):
    path = write_run(
        tmp_path / "run", record(*STAGES[:2], best="iteration-0"), python={"model": "my/folder", "peft_config": None}
    )
    assert "Model my/folder Data passed from Python" in report(path)


def test_the_defaults_that_it_goes_by_are_those_of_the_settings():
    assert {name: getattr(SelfPlayConfig(), name) for name in REPORTED_DEFAULTS} == REPORTED_DEFAULTS


def test_a_metric_that_is_not_named_is_the_likelihood_of_which_less_is_better(tmp_path):
    path = write_run(tmp_path / "run", record(*STAGES[:2]))
    (path / "recipe.yaml").write_text("scorer: [exact_match]\n", encoding="utf-8")
    found = read_record(RunDirectory(path))
    assert (found.metric, found.greater_is_better, found.planned) == ("nll", False, 3)


def test_the_best_models_samples_are_shown_with_those_won_and_lost(tmp_path):
    """Iteration 1 is right on 60 prompts, 40 more than the start; there are samples for 100 prompts."""
    rows = [sample(number, generated=f"Answer {number}") for number in range(100)]
    samples = {one.name: [{**row, "generated": f"{one.name} {row['key']}"} for row in rows] for one in STAGES}
    found = report(write_run(tmp_path / "run", record(*STAGES, best="iteration-1"), samples))
    assert "30 of 100 samples are shown; all of them are in iteration-1/samples.jsonl." in found
    assert "Evenly chosen from all prompts: 20 of 100" in found
    assert "Better than the start’s answer: 10 of 40" in found
    assert "Worse" not in found
    assert f"baseline/sft/iteration-1 {key(5)}" in found


def test_of_a_long_run_the_answers_of_those_models_are_read_that_are_shown(tmp_path, monkeypatch):
    """Otherwise the report would take longer with every iteration."""
    stages = [stage("start", range(20)), *(stage(f"iteration-{t}", range(40)) for t in range(20))]
    path = write_run(tmp_path / "run", record(*stages, best="iteration-19"))
    read = set()

    def reading(file):
        read.add(file.parent.name)
        return read_samples(file)

    monkeypatch.setattr("spin_trl.report.write.read_samples", reading)
    assert f"{MOST_OTHERS} of 20 other models" in report(path)
    assert len(read) == MOST_OTHERS + 1
    assert {"start", "iteration-19"} <= read


def test_where_the_start_is_the_best_the_newest_iteration_is_shown(tmp_path):
    found = report(write_run(tmp_path / "run", record(*STAGES[:3], best="start")))
    assert "the answer of iteration 1" in found
    assert "that of iteration 1" not in report(write_run(tmp_path / "other", record(STAGES[0], best="start")))


def test_answers_that_have_gone_bad_are_warned_of_by_the_runs_own_thresholds(tmp_path):
    bad = stage("iteration-0", figures={"score": 0.1, "truncated": 0.6})
    assert "60 % of the answers were truncated" in report(
        write_run(tmp_path / "one", record(STAGES[0], bad, best="iteration-0"))
    )
    path = write_run(
        tmp_path / "two", record(STAGES[0], bad, best="iteration-0"), degeneration_warn={"truncated": 0.9}
    )
    assert "of the answers were truncated" not in report(path)


HOSTILE = {
    "script": "<script>document.title = 'hacked'</script>", "unseen": "\x00\x1b[2J\u202egnihtemos\u2066",
    "half": "\ud83d half",
    "rtl": "שלום עולם", "emoji": "👩‍👩‍👧🏳️‍🌈", "word": "x" * 100_000, "lines": "a\u2028b\u0085c\r\nd",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_whatever_a_model_answers_is_text_on_the_page(tmp_path, name):
    rows = [
        sample(number, prompt=HOSTILE[name], real=HOSTILE[name], generated=HOSTILE[name] + " end")
        for number in range(3)
    ]
    path = write_run(tmp_path / "run", record(*STAGES[:2], best="iteration-0"), {one.name: rows for one in STAGES})
    page = write_report(RunDirectory(path)).read_text(encoding="utf-8")
    assert "<script" not in page
    assert not re.search("[\x00-\x08\x1b\u202a-\u202e\u2066-\u2069]", page)
    if name == "script":
        assert "&lt;script&gt;" in page
        assert HOSTILE[name] in text_of(path / "report.html")
    if name in ("rtl", "emoji"):
        assert HOSTILE[name] in page


@pytest.mark.slow
def test_ten_thousand_samples_make_a_page_of_less_than_five_megabytes(tmp_path):
    long = "<&\"'> " * 500
    path = write_run(tmp_path / "run", record(*STAGES, best="iteration-1"), {})
    samples = path / "start" / "samples.jsonl"
    with samples.open("w", encoding="utf-8") as file:
        for number in range(10_000):
            row = sample(number, prompt=long, real=long, generated=long[number % 99 :], key=f"key-{number:05}")
            file.write(json.dumps(row) + "\n")
    for one in STAGES[1:]:
        (path / one.name / "samples.jsonl").unlink()
        (path / one.name / "samples.jsonl").hardlink_to(samples)
    size = write_report(RunDirectory(path)).stat().st_size
    assert 100_000 < size < 5e6
    assert re.search(
        r"\d+ of 10,000 samples are shown; all of them are in iteration-1/samples.jsonl", text_of(path / "report.html")
    )


def test_a_report_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    path = write_run(tmp_path / "run", record(*STAGES[:2], best="iteration-0"))
    before = write_report(RunDirectory(path)).read_bytes()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "full")))
    with refused(OSError, "full"):
        write_report(RunDirectory(path))
    assert (path / "report.html").read_bytes() == before


def test_a_run_that_is_overwritten_loses_its_report(tmp_path):
    prepare = {"phase": "prepare", "stage": "data", "time": 1.0, "dataset": "d0"}
    path = write_run(tmp_path / "run", record(*STAGES[:2], best="iteration-0", journal=[prepare]))
    report(path)
    RunDirectory(path).clear()
    assert not (path / "report.html").exists()


@pytest.mark.parametrize(
    ("file", "content", "parts"),
    [
        ("recipe.yaml", None, ["run directory", "recipe.yaml"]),
        ("recipe.yaml", "a: [", ["recipe.yaml", "line 1, column 5"]),
        ("recipe.yaml", "- a", ["recipe.yaml", "settings"]),
        ("start/metrics.json", "{", ["start/metrics.json", "line 1 column 2"]),
        ("start/samples.jsonl", '{"key": "a"}\n{"key"', ["start/samples.jsonl, line 2", "JSON"]),
        ("start/samples.jsonl", "[1]\n", ["start/samples.jsonl, line 1", "`key`"]),
    ],
)
def test_a_file_that_can_not_be_read_is_named(tmp_path, file, content, parts):
    path = write_run(tmp_path / "run", record(STAGES[0]))
    (path / file).unlink() if content is None else (path / file).write_text(content, encoding="utf-8")
    with refused(RunDirectoryError, *parts):
        write_report(RunDirectory(path))


def test_a_separator_of_lines_within_an_answer_ends_no_line(tmp_path):
    """The files are written with `ensure_ascii=False`."""
    path = tmp_path / "samples.jsonl"
    rows = [{"key": "a", "generated": "one\u2028two\x85three\x0cfour"}, {"key": "b"}]
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n", encoding="utf-8")
    assert list(read_samples(path)) == rows
    assert list(read_samples(tmp_path / "none")) == []


def test_hashes_of_models_come_from_what_they_answered(tmp_path):
    path = write_run(tmp_path / "run", record(*STAGES[:2], best="iteration-0"))
    for folder, digest in (("iteration-0/generations", "aaaa"), ("iteration-0/held-out/sampled", "bbbb")):
        (path / folder).mkdir(parents=True)
        (path / folder / "generations.json").write_text(json.dumps({"model": digest}), encoding="utf-8")
    assert gather(RunDirectory(path))["digests"] == {"model: start": "aaaa", "model: iteration 0": "bbbb"}


def test_the_engines_that_generated_are_named(tmp_path):
    """One of them has generated with another base than training computes with."""
    path = write_run(tmp_path / "run", record(*STAGES, best="iteration-0"))
    for iteration, more in enumerate(({}, {"engine": "vllm", "engine_version": "0.31.0", "unquantised_base": True})):
        manifest = {"model": "aaaa", "engine": "transformers", "engine_version": "5.20", **more}
        (path / f"iteration-{iteration}" / "generations").mkdir(parents=True)
        written = path / f"iteration-{iteration}" / "generations" / "generations.json"
        written.write_text(json.dumps(manifest), encoding="utf-8")
    engines = gather(RunDirectory(path))["versions"]["engine"]
    assert engines == "transformers 5.20, vllm 0.31.0, with the base model unquantised"


@pytest.mark.parametrize(
    ("name", "content", "key"),
    [
        ("metrics.json", '["nll"]', "nll"),
        ("metrics.json", '{"nll": "low"}', "`nll`"),
        ("metrics.json", '{"nll": [1]}', "`nll`"),
        ("metrics.json", "{", "metrics.json"),
        ("held-out/values.json", '{"score": [1]}', "`score`"),
        ("held-out/values.json", '{"score": {"0": "1"}}', "`0`"),
        ("histograms.json", '{"edges": [1, 2], "real": [3, 4]}', "`real`"),
        ("histograms.json", '{"edges": {"a": 1}}', "`edges`"),
        ("held-out/sampled/generations.json", "[", "generations.json"),
        ("held-out/sampled/generations.json", "[1]", "generations.json"),
        ("../best.json", "[1]", "best.json"),
        ("../best.json", '{"stage": 3}', "`stage`"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content, key):
    """The error names the unexpected value; `spin-trl run` can write the file again."""
    path = write_run(tmp_path / "run", record(*STAGES, best="iteration-1"))
    file = path / "iteration-0" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content, encoding="utf-8")
    with refused(RunDirectoryError, file.name, key):
        report(path)
