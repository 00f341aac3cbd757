"""Determines which parts of a run are missing on the Hub, and pushes them.

There is a branch for every accepted iteration (`iter-0`, ...) and result of DPO (`dpo-iter-0`, ...), and one for the start
if the run created it (`start`); `main` holds the best model so far. Pushes are recorded in the journal, so nothing is pushed
twice, and a failed push is retried by the run itself, a later run, or `spin-trl push`.
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
"""Files to delete from a branch when another model replaces its own: a mix of two models' files can't be loaded."""

Say = Callable[[str], None]


def targets_of(run: Run, hub: Hub) -> Names:
    """Return the repositories that a run's settings say to push to; no dataset if the pairs are not pushed.

    Raises:
        HubError: if the account's name is needed and can't be looked up on the Hub.
    """
    model = hub.full_name(run.args.hub_model_id or _as_name(run.directory.path.resolve().name))
    pairs = hub.full_name(run.play.hub_dataset_id or f"{model}-pairs") if run.play.push_generations else None
    return Names(model, pairs)


def privacy_of(run: Run) -> bool | None:
    """Return whether repositories created for a run are private; None for their owner's default."""
    private = run.args.hub_private_repo
    # A backup contains the data itself, which must not become public unless the user explicitly asks for it.
    return True if private is None and run.play.hub_backup else private


def _as_name(text: str) -> str:
    """Turn the name of a folder into a valid repository name."""
    return re.sub(r"-{2,}|\.{2,}", "-", re.sub(r"[^\w.-]", "-", text)).strip("-.") or "spin-trl-run"


class Publisher:
    """Pushes the parts of a run that are missing on the Hub.

    Args:
        run: run to push.
        hub: Hub to push to.
        say: called with a message for every finished push.
    """

    def __init__(self, run: Run, hub: Hub, say: Say) -> None:
        self._run, self._hub, self._say = run, hub, say
        self._asked = False
        self._unwritten: list[Entry] = []

    def push_missing(self, upto: int | None = None) -> None:
        """Push everything that is missing, models first.

        Args:
            upto: newest iteration to push; None for all. An iteration still in progress is pushed by a later call.

        Raises:
            HubError: if a push failed. The pushes after it were not attempted.
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
        """Return the run's record, with the settings of this process."""
        record = read_record(self._run.directory)
        record = replace(record, journal=[*record.journal, *self._unwritten])
        record = record if upto is None else until(record, upto)
        set_here = {"hub_license": self._run.play.hub_license} if self._run.play.hub_license else {}
        return replace(record, settings={**record.settings, **set_here})

    def _ask_for_licenses(self, record: RunRecord) -> bool:
        """Look up the licences of the base model and the data on the Hub, once. Return whether any was found."""
        if self._asked or newest(record.journal, Step.LICENSES) or record.settings.get("hub_license"):
            return False
        model, data = RunFacts(record).given, RunFacts(record).data
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
            found = model_files(folder, _base(run, stage)) if has_weights else {}
            if has_weights and not any(name.endswith(".safetensors") for name in found):
                raise HubError(
                    f"The model of {stage.name} was deleted (`keep_iterations`), so it can no longer be pushed."
                )
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
        """Push files, and record the push in the journal; `where` holds `repository`, `revision` and `kind`."""
        self._hub.create(where["repository"], where["kind"], privacy_of(self._run))
        commit = self._hub.push(**where, files=files, message=message, outdated=outdated)
        self._remember(Step.PUSH, stage, **where, commit=commit.oid, url=commit.commit_url, **more)

    def _remember(self, step: Step, stage: str, **what: Any) -> None:
        """Append an entry to the journal; if it is not writable, warn once."""
        try:
            self._run.journal.append(step, stage, **what)
        except OSError as error:
            if error.errno not in FORBIDDEN:
                raise
            if not self._unwritten:
                self._say(
                    f"{self._run.directory.path} can't be written to ({error.strerror}), so its journal does not record "
                    "these pushes: the next `spin-trl push` will repeat them."
                )
            self._unwritten.append({"phase": step, "stage": stage, **what})


def _base(run: RunFacts, stage: StageRecord) -> tuple[str, str | None] | None:
    """Return the repository and branch to name as an adapter's base if its configuration names a folder."""
    is_own = (run.adapts_own_start or not run.sft_first) and not stage.name.origin.is_base
    if is_own and START in run.names.branches and run.names.model:
        return run.names.model, run.names.branches[START]
    return (run.given.name, None) if run.given is not None else None


def _is_push(entry: Entry, repository: str | None, kind: str) -> bool:
    return is_of(entry, Step.PUSH) and (entry.get("repository"), entry.get("kind")) == (repository, kind)


def newest_pushes(record: RunRecord, repository: str | None) -> dict[str, Entry]:
    """Return the newest push to every branch of a model repository, except pushes of models that were retrained since."""
    found: dict[str, Entry] = {}
    for entry in record.journal:
        if is_of(entry, Step.TRAIN):
            found = {branch: push for branch, push in found.items() if push["stage"] != entry["stage"]}
        elif _is_push(entry, repository, "model"):
            found[entry["revision"]] = entry
    return found


def until(record: RunRecord, iteration: int) -> RunRecord:
    """Return a record as of the end of an iteration, without anything from later iterations."""

    def belongs(stage: str) -> bool:
        _, has_number, number = stage.rpartition("iteration-")
        return not has_number or not number.isdecimal() or int(number) <= iteration

    return replace(
        record,
        stages=[stage for stage in record.stages if belongs(stage.name)],
        journal=[entry for entry in record.journal if belongs(str(entry.get("stage")))],
    )


def model_files(folder: Path, base: tuple[str, str | None] | None) -> dict[str, File | None]:
    """Return the files of a model to push: no checkpoints, frozen opponent, pickles or paths of this machine.

    Args:
        folder: directory of the model.
        base: repository and revision that replace a local folder as the base in an adapter's configuration.
    """
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and is_of_a_model(path)]
    configs = ("adapter_config.json", "config.json")
    return {
        path.name: _for_others(path, base) if path.name in configs else path
        for path in files
        if not path.name.startswith(".")
    }


def _for_others(path: Path, base: tuple[str, str | None] | None) -> bytes:
    """Return a configuration file's content without the paths of this machine."""
    config = read_object(path)
    for setting in ("base_model_name_or_path", "_name_or_path"):
        name = config.get(setting)
        if isinstance(name, str) and (Path(name).is_absolute() or Path(name).exists()):
            config[setting] = Path(name).name
            if setting == "base_model_name_or_path" and base is not None:
                config[setting], revision = base
                config |= {"revision": revision} if revision is not None else {}
    return (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()
