"""The experiment on a pretrained model (`benchmarks/real_model.py`) at full size, as far as the time allows.

Its results are kept next to the other figures and begin with those in the repository, so that existing parts are not
repeated: copy the file back, and the next run resumes, also on another machine.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from spin_trl.config.fetched import FETCHABLE, folder_of, is_fetched

from .check import Session, read

NAME = "smollm2-135m"
SCRIPT = Path(__file__).parents[1] / "real_model.py"
KNOWN = SCRIPT.parents[1] / "docs" / "results" / "real-model.jsonl"
AT_A_TIME = 4
"""Parts that share the GPU."""


def data_and_model(session: Session) -> str | None:
    """Condition: the published data were named, and the model is there."""
    if session.data is None:
        return "`--data FOLDER` with SVAMP's files was not given"
    if not (session.data / "svamp").is_dir():
        return f"there is no folder svamp in {session.data}"
    if _model(session.data) is None:
        return f"`spin-trl fetch {NAME}` has not been run, and its GGUF file is not in {session.data}"
    return None


def run(session: Session) -> None:
    """Play the parts that are not in the results yet, the most important first, and report how many models are measured."""
    assert session.data is not None
    results = session.results.with_name("real-model-tiny.jsonl" if session.tiny else "real-model.jsonl")
    if not results.exists() and KNOWN.exists() and not session.tiny:
        shutil.copy(KNOWN, results)
    command = [
        sys.executable, str(SCRIPT), "--size", "tiny" if session.tiny else "full", "--data", str(session.data),
        "--model", str(_model(session.data)), "--results", str(results), "--parallel", str(AT_A_TIME),
        "--work", str(session.folder / "work"),
    ]  # fmt: skip
    before = len(read(results))
    code = subprocess.run(command, check=False).returncode
    session.figure("models measured", len(read(results)) - before)
    session.note("results", str(results))
    if code:
        raise RuntimeError(f"a part failed: exit code {code}")


def _model(data: Path) -> Path | None:
    """Return the folder of the fetched model, or its GGUF file in the folder of the data; None without either."""
    if is_fetched(NAME):
        return folder_of(NAME)
    file = data / Path(FETCHABLE[NAME].member).name
    return file if file.is_file() else None
