"""The notebook of `qwen2.5-0.5b-t4` runs from top to bottom, with a tiny model on the CPU in its settings."""

import json
import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import tiny
from recipes import small
from spin_trl.config import shipped

NOTEBOOK = shipped.recipes()["qwen2.5-0.5b-t4"].parent / "notebook.ipynb"


def test_what_ships_has_no_output() -> None:
    """It has nothing specific to one machine either."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
    assert sum("parameters" in cell.metadata.get("tags", ()) for cell in cells) == 1


def test_a_secret_of_the_notebook_reaches_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Colab's secrets are only known to the notebook's process; the run is a separate process, and would push nothing."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (login,) = (cell.source for cell in notebook.cells if "notebook_login()" in cell.source)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_ofthenotebook")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    for push, expected in ((False, "before"), (True, "hf_ofthenotebook")):
        monkeypatch.setenv("HF_TOKEN", "before")
        exec(login, {"Path": Path, "PUSH": push, "RUN": "run", "OPTIONS": []})
        assert os.environ["HF_TOKEN"] == expected
    (tmp_path / "token").write_text("of a login, which is renewed there", encoding="utf-8")
    monkeypatch.delenv("HF_TOKEN")
    exec(login, {"Path": Path, "PUSH": True, "RUN": "run", "OPTIONS": []})
    assert "HF_TOKEN" not in os.environ


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It plans, plays all iterations, shows the table and samples, and lets the best model answer."""
    model = small.qwen2(tmp_path / "model")
    rows = small.problems(small.ROWS + small.HELD_OUT)
    data = tiny.write_jsonl(tmp_path / "train.jsonl", rows.select(range(small.ROWS)))
    held_out = tiny.write_jsonl(tmp_path / "test.jsonl", rows.select(range(small.ROWS, len(rows))))
    swapped = {
        "model_name_or_path": model, "model_revision": "main", "dataset_name": data, "held_out_name": held_out,
        **small.SIZE, "max_length": 256,
    }  # fmt: skip
    del swapped["run_dir"]
    options = [part for key, value in swapped.items() for part in (f"--{key}", str(value))]
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (settings,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    settings.source += f"\nRUN = {str(tmp_path / 'run')!r}\nPUSH = False\nOPTIONS = {options!r}"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    NotebookClient(notebook, timeout=500, kernel_name="python3").execute()
    said = {
        cell.source: "".join(output.get("text", "") for output in cell.outputs)
        for cell in notebook.cells
        if cell.cell_type == "code"
    }

    def after(words: str) -> str:
        return next(text for source, text in said.items() if words in source)

    assert "KV cache" in after(" plan ")
    assert "iteration-2: evaluate" in after("run {RECIPE}")
    assert "iteration 2" in after("table.txt")
    best = json.loads((tmp_path / "run" / "best.json").read_text(encoding="utf-8"))
    assert f"The best is {best['stage']}, by score/last_number" in after("table.txt")
    assert after("samples.jsonl").count("GENERATED") == 3
    assert after("model.generate").strip()
