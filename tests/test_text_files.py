"""Text files are in UTF-8 under any locale."""

import ast
from pathlib import Path

import nbformat
import pytest

import spin_trl
from spin_trl.config import shipped

TOP = Path(spin_trl.__file__).parents[1]


def test_every_text_file_is_opened_with_its_encoding() -> None:
    """Otherwise the locale's encoding applies, and a file would be read differently on another machine."""
    modules = [path for folder in ("spin_trl", "tests", "benchmarks") for path in TOP.glob(f"{folder}/**/*.py")]
    found = {str(path): without_encoding(path.read_text(encoding="utf-8")) for path in modules}
    assert len(found) > 100
    assert {path: calls for path, calls in found.items() if calls} == {}


def test_so_does_the_notebook() -> None:
    """It shows tables and samples."""
    notebook = nbformat.read(shipped.recipes()["qwen2.5-0.5b-t4"].parent / "notebook.ipynb", as_version=4)
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code" and '"table.txt"' in cell.source]
    cells += [cell.source for cell in notebook.cells if cell.cell_type == "code" and "samples.jsonl" in cell.source]
    assert len(cells) == 2
    assert [found for cell in cells for found in without_encoding(cell)] == []


@pytest.mark.parametrize(
    ("line", "is_found"),
    [
        ("path.read_text()", True),
        ("path.read_text(encoding='utf-8')", False),
        ("path.write_text(text)", True),
        ("path.write_text(text, encoding='utf-8')", False),
        ("open(path)", True),
        ("open(path, 'rb')", False),
        ("path.open('a')", True),
        ("path.open('ab')", False),
        ("path.open()", True),
        ("open(path, mode='w', encoding='utf-8')", False),
        ("store.open(manifest)", False),
        ("os.open(path, os.O_WRONLY)", False),
        ("subprocess.run(command, text=True)", True),
        ("subprocess.run(command, encoding='utf-8')", False),
    ],
)
def test_a_text_file_without_an_encoding_is_found(line: str, is_found: bool) -> None:
    assert bool(without_encoding(line)) is is_found


def without_encoding(source: str) -> list[str]:
    """Return calls that read or write text, or decode a process's output, in the locale's encoding."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [f"line {call.lineno}: {ast.unparse(call)}" for call in calls if _depends_on_the_locale(call)]


def _depends_on_the_locale(call: ast.Call) -> bool:
    options = {keyword.arg: keyword.value for keyword in call.keywords}
    is_method = isinstance(call.func, ast.Attribute)
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if "encoding" in options or ast.unparse(call.func) == "os.open":  # a file descriptor: bytes
        return False
    if name in ("read_text", "write_text"):
        return len(call.args) == (0 if name == "read_text" else 1)
    if name == "open":
        mode = options.get("mode", call.args[0 if is_method else 1] if len(call.args) > (not is_method) else None)
        if mode is None:
            return True
        # The first argument of `GenerationStore.open` is a manifest.
        return isinstance(mode, ast.Constant) and "b" not in str(mode.value)
    return "text" in options and ast.unparse(call.func).startswith("subprocess.")
