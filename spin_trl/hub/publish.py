"""What of a run has to be on the Hub and is not yet there, and the pushes that bring it there.

A branch for every accepted iteration (`iter-0`, ...), the start's own if the run made it (`start`), and on `main` the best
so far. What has been pushed stands in the journal, so nothing is pushed twice, and what failed is tried again by whoever
comes next: the run itself, a later one, or `spin-trl push`.
"""

from __future__ import annotations

import functools
import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import FORBIDDEN, HubError
from ..files import short_digest
from ..report.record import RunRecord, StageRecord, read_record
from ..run.checkpoint import is_of_a_model
from ..run.journal import HUB, Entry, Step, is_of, newest
from ..run.objects import read_object
from ..run.run import Run
from ..run.stage import START
from . import cards
from .client import File, Hub
from .dataset import write_pairs
from .dataset_card import config_name
from .facts import Names, RunFacts

MAIN = "main"

OF_A_MODEL = (
    "*.safetensors",
    "*.safetensors.index.json",
    "adapter_config.json",
    "config.json",
    "generation_config.json",
)
"""Files that go from a branch when another model takes its place: of two models' files together nobody could load one."""

Say = Callable[[str], None]


def targets_of(run: Run, hub: Hub) -> Names:
    """Where a run's settings say that it is pushed; no dataset: the pairs are not.

    Raises:
        HubError: a name is to be that of the account, and the Hub can't be asked for it.
    """
    model = hub.full_name(run.args.hub_model_id or _as_name(run.directory.path.resolve().name))
    pairs = hub.full_name(run.play.hub_dataset_id or f"{model}-pairs") if run.play.push_generations else None
    return Names(model, pairs)


def privacy_of(run: Run) -> bool | None:
    """Whether repositories that are made for a run are private; None: as is usual for their owner."""
    private = run.args.hub_private_repo
    # A directory that is kept holds the data itself, which nobody should make public without having said so.
    return True if private is None and run.play.hub_backup else private


def _as_name(text: str) -> str:
    """A name of a repository from that of a folder."""
    return re.sub(r"-{2,}|\.{2,}", "-", re.sub(r"[^\w.-]", "-", text)).strip("-.") or "spin-trl-run"


class Publisher:
    """Pushes what is missing of a run.

    Args:
        run: the run.
        hub: of it.
        say: told of every finished push.
    """

    def __init__(self, run: Run, hub: Hub, say: Say) -> None:
        self._run, self._hub, self._say = run, hub, say
        self._asked = False
        self._unwritten: list[Entry] = []

    def push_missing(self, upto: int | None = None) -> None:
        """Push what is not there yet, the iterations first.

        Args:
            upto: newest iteration that counts; None: all. One that is not finished yet is another's to push.

        Raises:
            HubError: something could not be pushed. What comes behind it was not tried.
        """
        directory = self._run.directory
        record = self._read(upto)
        if record.start is None and not record.iterations:
            return
        targets = targets_of(self._run, self._hub)
        if self._ask_for_licenses(record):
            record = self._read(upto)
        start, best, stands_by = record.start, record.best_stage, cards.accepted(record)
        models = [one for one in (start, *stands_by) if one is not None and cards.has_model(directory, one)]
        known = cards.pushed_names(record)
        branches = dict(known.branches) if known.model == targets.model else {}
        branches |= {one.name: cards.branch_of(one) for one in models}
        run = cards.run_facts(directory, record, Names(targets.model, targets.dataset or known.dataset, branches))
        pushed = newest_pushes(record, targets.model)
        for stage in models:
            branch = cards.branch_of(stage)
            if pushed.get(branch, {}).get("stage") != stage.name:
                self._push_model(run, stage, branch, str(cards.card_of(directory, run, stage, branch)))
        if best is not None and record.iterations and (best in stands_by or best is start):
            last, card = pushed.get(MAIN, {}), str(cards.card_of(directory, run, best))
            if (last.get("stage"), last.get("card")) != (best.name, short_digest(card)):
                self._push_model(run, best, MAIN, card)
        if targets.dataset is not None:
            self._push_pairs(run, targets.dataset)

    def _read(self, upto: int | None) -> RunRecord:
        """The run's record, with the settings that hold here."""
        record = read_record(self._run.directory)
        record = replace(record, journal=[*record.journal, *self._unwritten])
        record = record if upto is None else until(record, upto)
        set_here = {"hub_license": self._run.play.hub_license} if self._run.play.hub_license else {}
        return replace(record, settings={**record.settings, **set_here})

    def _ask_for_licenses(self, record: RunRecord) -> bool:
        """Ask the Hub once what licences the base model and the data have. Returns whether it has told any."""
        if self._asked or newest(record.journal, Step.LICENSES) or record.settings.get("hub_license"):
            return False
        model, data = RunFacts(record).start, RunFacts(record).data
        found = {
            "model": self._hub.license_of(model.root, "model") if model is not None and model.root else None,
            "data": self._hub.license_of(data.name, "dataset") if data is not None and data.on_hub else None,
        }
        self._asked = True
        if any(found.values()):
            self._remember(Step.LICENSES, HUB, **found)
        return any(found.values())

    def _push_model(self, run: RunFacts, stage: StageRecord, revision: str, card: str) -> None:
        folder, has_weights = self._run.directory.model(stage.name), cards.has_model(self._run.directory, stage)

        def files() -> dict[str, File | None]:
            found = model_files(folder, _base(run)) if has_weights else {}
            if has_weights and not any(name.endswith(".safetensors") for name in found):
                raise HubError(f"The model of {stage.name} has gone (`keep_iterations`): it can't be pushed any more.")
            return {**found, "README.md": card.encode()}

        where = {"repository": str(run.names.model), "revision": revision, "kind": "model"}
        self._push(stage.name, where, files, f"{run.record.name}, {stage.label}", OF_A_MODEL, card=short_digest(card))
        self._say(f"{stage.name}: pushed to {run.names.model}, {revision}")

    def _push_pairs(self, run: RunFacts, repository: str) -> None:
        directory, where = self._run.directory, {"repository": repository, "revision": MAIN, "kind": "dataset"}
        pushed = {entry["stage"] for entry in run.record.journal if _is_push(entry, repository, "dataset")}
        missing = {name: n for n in cards.generated_iterations(run.record) if (name := config_name(n)) not in pushed}
        card = str(cards.card_of_pairs(directory, run)).encode() if missing else b""
        for name, number in missing.items():
            with tempfile.TemporaryDirectory(prefix="spin-trl-pairs-") as place:
                generations = cards.generations_of(directory, number)
                paths = write_pairs(Path(place), self._run.rows(), generations, self._run.tokenizer())
                files: dict[str, File | None] = {f"{name}/{path.name}": path for path in paths} | {"README.md": card}
                again = functools.partial(dict[str, File | None], files)
                self._push(name, where, again, f"{run.record.name}, pairs of iteration {number}", (f"{name}/*",))
            self._say(f"pairs of {name}: pushed to {repository}")

    def _push(
        self,
        stage: str,
        where: Mapping[str, str],
        files: Callable[[], Mapping[str, File | None]],
        message: str,
        outdated: Sequence[str],
        **more: str,
    ) -> None:
        """Push files, and remember in the journal what was pushed where (`repository`, `revision` and `kind`)."""
        self._hub.create(where["repository"], where["kind"], privacy_of(self._run))
        commit = self._hub.push(**where, files=files, message=message, outdated=outdated)
        self._remember(Step.PUSH, stage, **where, commit=commit.oid, url=commit.commit_url, **more)

    def _remember(self, step: Step, stage: str, **what: Any) -> None:
        """Write into the journal what was done; where nobody may, that is said, once."""
        try:
            self._run.journal.append(step, stage, **what)
        except OSError as error:
            if error.errno not in FORBIDDEN:
                raise
            if not self._unwritten:
                self._say(
                    f"{self._run.directory.path} can't be written to ({error.strerror}), so its journal won't say what was "
                    "pushed: the next `spin-trl push` pushes it again."
                )
            self._unwritten.append({"phase": step, "stage": stage, **what})


def _base(run: RunFacts) -> tuple[str, str | None] | None:
    """What an adapter's configuration names as its base, where that is a folder: repository and branch."""
    if START in run.names.branches and run.names.model:
        return run.names.model, run.names.branches[START]
    return (run.start.name, None) if run.start is not None else None


def _is_push(entry: Entry, repository: str | None, kind: str) -> bool:
    return is_of(entry, Step.PUSH) and (entry.get("repository"), entry.get("kind")) == (repository, kind)


def newest_pushes(record: RunRecord, repository: str | None) -> dict[str, Entry]:
    """The newest push to every branch of a model's repository, but for those of models that were trained again later."""
    found: dict[str, Entry] = {}
    for entry in record.journal:
        if is_of(entry, Step.TRAIN):
            found = {branch: push for branch, push in found.items() if push["stage"] != entry["stage"]}
        elif _is_push(entry, repository, "model"):
            found[entry["revision"]] = entry
    return found


def until(record: RunRecord, iteration: int) -> RunRecord:
    """A record as it was when an iteration had been finished: what a later one has begun is left out."""

    def belongs(stage: str) -> bool:
        _, has_number, number = stage.rpartition("iteration-")
        return not has_number or not number.isdecimal() or int(number) <= iteration

    return replace(
        record,
        stages=[stage for stage in record.stages if belongs(stage.name)],
        journal=[entry for entry in record.journal if belongs(str(entry.get("stage")))],
    )


def model_files(folder: Path, base: tuple[str, str | None] | None) -> dict[str, File | None]:
    """The files of a model that are pushed: no checkpoints, no frozen opponent, no pickles, nothing of this machine alone.

    Args:
        folder: of the model.
        base: what the configuration of an adapter names as its base instead of a folder of this machine, and its revision.
    """
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and is_of_a_model(path)]
    configs = ("adapter_config.json", "config.json")
    return {
        path.name: _for_others(path, base) if path.name in configs else path
        for path in files
        if not path.name.startswith(".")
    }


def _for_others(path: Path, base: tuple[str, str | None] | None) -> bytes:
    """A configuration without the paths of this machine."""
    config = read_object(path)
    for setting in ("base_model_name_or_path", "_name_or_path"):
        name = config.get(setting)
        if isinstance(name, str) and (Path(name).is_absolute() or Path(name).exists()):
            config[setting] = Path(name).name
            if setting == "base_model_name_or_path" and base is not None:
                config[setting], revision = base
                config |= {"revision": revision} if revision is not None else {}
    return (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()
