"""A new recipe gives up only what the machine requires, and is written atomically."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import tiny
from messages import names, refused
from spin_trl.errors import PlanError, RecipeError
from spin_trl.plan.devices import Device
from spin_trl.play.first_steps import init
from spin_trl.play.first_steps.init import NewRecipe, check_output, seen_in_words, write_recipe
from spin_trl.play.first_steps.look import Machine, SeenData, SeenModel, look_at_data, look_at_model
from spin_trl.play.first_steps.recipe_text import ADAPTER, FOUR_BITS, FULL, Fit

GPU = Machine(Device("NVIDIA A10", 22.0, 125, 600))
CPU = Machine(Device("CPU", 16.0, 1, 20, is_gpu=False))


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def model(llama_folder: Path) -> SeenModel:
    return look_at_model(str(llama_folder))


@pytest.fixture
def data() -> SeenData:
    return look_at_data(str(tiny.write_jsonl("train.jsonl", tiny.sft(24))), None, "train", None)


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Record the plans made: which weights are trained, and the batch size. Nothing fits, unless a test says otherwise."""
    ways: list[tuple[str, int]] = []
    fitting(monkeypatch, ways)
    return ways


def fitting(monkeypatch: pytest.MonkeyPatch, ways: list[tuple[str, int]], *fit: tuple[str, int]) -> None:
    """Make plans report that these ways fit, and no others."""

    def make_plan(source: str, *_: Any, **__: Any) -> Any:
        settings = yaml.safe_load(Path(source).read_text(encoding="utf-8"))
        kind = FOUR_BITS if "load_in_4bit" in settings else ADAPTER if settings["dtype"] != "float32" else FULL
        way = kind, settings["per_device_train_batch_size"]
        ways.append(way)
        return SimpleNamespace(peak=SimpleNamespace(total=3 * 2**30), fits=lambda device: way in fit)

    monkeypatch.setattr(init, "make_plan", make_plan)


def write(*seen: Any) -> NewRecipe:
    return write_recipe(Path("recipe.yaml"), *seen)


EVERY_WAY = [(kind, batch) for kind in (FULL, ADAPTER, FOUR_BITS) for batch in (8, 2)]


@pytest.mark.parametrize("fit", EVERY_WAY)
def test_the_first_way_that_fits_is_taken(
    fit: tuple[str, int],
    model: SeenModel,
    data: SeenData,
    planned: list[tuple[str, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ways are tried in order, each giving up more than the one before, and none after the first that fits."""
    fitting(monkeypatch, planned, fit, EVERY_WAY[-1])
    new = write(model, data, GPU)
    assert new.fit == Fit(*fit, peak=3.0, fits=True)
    assert planned == EVERY_WAY[: EVERY_WAY.index(fit) + 1]
    assert new.settings["per_device_train_batch_size"] == fit[1]


def test_where_nothing_fits_the_last_way_is_written(
    model: SeenModel, data: SeenData, planned: list[tuple[str, int]]
) -> None:
    new = write(model, data, GPU)
    assert new.fit == Fit(*EVERY_WAY[-1], peak=3.0, fits=False)
    assert names("\n".join(seen_in_words(model, data, GPU, new)), "`spin-trl plan`", "3.0 GiB", "22 GiB")


@pytest.mark.parametrize(
    ("bytes_a_parameter", "first"), [(17, FULL), (15, ADAPTER), (1.5, FOUR_BITS), (0.1, FOUR_BITS)]
)
def test_what_can_not_fit_is_not_planned(
    bytes_a_parameter: float, first: str, model: SeenModel, data: SeenData, planned: list[tuple[str, int]]
) -> None:
    """Weights, gradients and Adam's states in float32 take 16 bytes per parameter. The last way is planned in any case."""
    parameters = tiny.model("llama").num_parameters()
    memory = bytes_a_parameter * parameters / 2**30
    write(model, data, Machine(replace(GPU.device, memory=memory)))
    assert planned[0][0] == first
    assert planned[-1] == EVERY_WAY[-1]


def test_a_cpu_has_no_4_bits(model: SeenModel, data: SeenData, planned: list[tuple[str, int]]) -> None:
    new = write(model, data, CPU)
    assert new.fit == Fit(ADAPTER, 1, peak=3.0, fits=False)


def test_of_an_adapter_all_weights_are_never_trained(
    model: SeenModel, data: SeenData, planned: list[tuple[str, int]]
) -> None:
    write(replace(model, is_adapter=True), data, GPU)
    assert planned == EVERY_WAY[2:]


@pytest.mark.parametrize("missing", ["model", "data", "config"])
def test_without_a_model_or_data_nothing_is_planned(
    missing: str, model: SeenModel, data: SeenData, planned: list[tuple[str, int]]
) -> None:
    seen = {
        "model": (None, data),
        "data": (model, None),
        "config": (replace(model, config=None), data),
    }[missing]
    new = write(*seen, GPU)
    assert planned == []
    assert new.fit == Fit(FULL, 8)


def test_a_model_that_can_not_be_planned_gets_a_recipe(
    model: SeenModel, data: SeenData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PlanError("not this one")

    monkeypatch.setattr(init, "make_plan", refuse)
    assert write(model, data, GPU).fit == Fit(FULL, 8)


def test_what_is_returned_is_what_was_written() -> None:
    new = write(None, None, CPU)
    assert new.settings == yaml.safe_load(new.path.read_text(encoding="utf-8"))
    assert [path.name for path in Path().iterdir()] == ["recipe.yaml"]


@pytest.mark.parametrize("earlier", [None, "mine"], ids=["nothing", "a-file"])
def test_a_recipe_that_can_not_be_read_back_is_not_written(
    earlier: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An existing file is kept."""
    if earlier is not None:
        Path("recipe.yaml").write_text(earlier, encoding="utf-8")
    monkeypatch.setattr(init, "recipe_text", lambda *_: "max_lenght: 3\n")
    with refused(RecipeError, "'max_lenght'"):
        write(None, None, CPU)
    found = {path.name: path.read_text(encoding="utf-8") for path in Path().iterdir()}
    assert found == ({} if earlier is None else {"recipe.yaml": earlier})


@pytest.mark.parametrize("name", ["recipe.yaml", "recipe.yml", "folder/recipe.yaml"])
def test_a_new_file_in_a_folder_that_is_there_is_fine(name: str) -> None:
    Path("folder").mkdir()
    assert check_output(name, force=False) == Path(name)


def test_a_path_may_begin_with_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert check_output("~/recipe.yaml", force=False) == tmp_path / "recipe.yaml"


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("name", ["recipe", "recipe.json", "folder", "missing/recipe.yaml"])
def test_other_paths_are_refused(name: str, force: bool) -> None:
    Path("folder").mkdir()
    with refused(RecipeError, "`--output`", name.split("/")[0]):
        check_output(name, force=force)


def test_only_force_overwrites_a_file() -> None:
    Path("recipe.yaml").write_text("mine", encoding="utf-8")
    with refused(RecipeError, "recipe.yaml", "`--output`", "`--force`"):
        check_output("recipe.yaml", force=False)
    assert check_output("recipe.yaml", force=True) == Path("recipe.yaml")


def test_what_was_seen_is_told(model: SeenModel, data: SeenData) -> None:
    """This includes what is uncertain or wrong: a guess, rows that are left out, columns that are not used."""
    guess = replace(data.guess, mapping={"q\x1b": "prompt"}, is_by_content=True)
    data = replace(data, guess=guess, bad=[(7, "empty")], unused="`source` is not used.", scorer="boxed")
    new = NewRecipe(Path("recipe.yaml"), {}, Fit(FOUR_BITS, 8, 3.0, fits=True))
    text = "\n".join(seen_in_words(model, data, GPU, new))
    assert names(text, "train.jsonl", "24 rows", "`q␛`", "`prompt`", "(a guess)")
    assert names(text, "1 of 24 sampled rows", "row 7", "`source`")
    assert names(text, "boxed", model.name, "llama", f"{model.positions} positions", "NVIDIA A10", "22 GiB", "4-bit")
    assert not names(text, "NOT")


def test_what_was_not_named_is_not_told() -> None:
    lines = seen_in_words(None, None, CPU, NewRecipe(Path("recipe.yaml"), {}, Fit()))
    assert len(lines) == 1
    assert names(lines[0], "CPU", "16 GiB", "all weights")
