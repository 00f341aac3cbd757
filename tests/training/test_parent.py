"""TRL and transformers still have everything that the trainer relies on (`trl_parent.py`), and that list is complete.

If an upgrade drops a name, or a parameter that is passed by position, a test here fails with that name. Types are left
to mypy, and the parents' results to the tests of the code that uses them.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from trl import DPOTrainer

import spin_trl
from spin_trl.play.rehearse import _Rehearsal
from spin_trl.training.non_finite import NonFiniteTrainer
from spin_trl.training.objective_trainer import ObjectiveTrainer
from spin_trl.training.pairs_trainer import PairsTrainer
from spin_trl.training.trainer import SPINTrainer
from spin_trl.training.whole_checkpoints import WholeCheckpointsTrainer
from trl_parent import ATTRIBUTES, CALLED, OF_OTHERS, OVERRIDDEN, PRIVATE, TRICKS

PACKAGE = Path(spin_trl.__file__).parent
METHODS = OVERRIDDEN | CALLED
LIBRARIES = {"accelerate", "datasets", "peft", "transformers", "trl"}

OURS = (NonFiniteTrainer, WholeCheckpointsTrainer, ObjectiveTrainer, PairsTrainer, SPINTrainer, _Rehearsal)
"""Subclasses of `DPOTrainer`."""


def tree_of(found: type | Callable[..., object]) -> ast.AST:
    """Return the syntax tree of a class or function."""
    return ast.parse(textwrap.dedent(inspect.getsource(found)))


@functools.cache
def attributes_of(owner: type) -> frozenset[str]:
    """Return the names that a class has, or that its methods or those of its parents set on `self`."""
    found = set(dir(owner)) | {field for cls in owner.__mro__ for field in getattr(cls, "__annotations__", {})}
    for cls in owner.__mro__:
        if cls.__module__ == "builtins" or cls.__module__.startswith(("typing", "collections", "torch.nn")):
            continue
        for node in ast.walk(tree_of(cls)):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_self(node.value):
                found.add(node.attr)
    return frozenset(found)


def is_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def parameters_of(function: Callable[..., object]) -> tuple[str, ...]:
    """Return the names of a method's positional parameters, without `self`."""
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind in by_place and name != "self"
    )


@pytest.mark.parametrize("name", sorted(METHODS))
def test_the_parent_has_the_method(name: str) -> None:
    expected, why = METHODS[name]
    method = getattr(DPOTrainer, name, None)
    assert method is not None, f"DPOTrainer has no `{name}` ({why})"
    found = parameters_of(method)[: len(expected)]
    assert found == expected, f"DPOTrainer's `{name}` begins with other parameters ({why})"


@pytest.mark.parametrize("name", sorted(set(OVERRIDDEN) - {"__init__"}))
def test_ours_take_what_the_list_says(name: str) -> None:
    expected, _ = OVERRIDDEN[name]
    for cls in OURS:
        if name in vars(cls):
            assert parameters_of(vars(cls)[name]) == expected, f"{cls.__name__}.{name}"


def test_the_constructor_takes_three_arguments_more() -> None:
    assert parameters_of(SPINTrainer.__init__) == (*OVERRIDDEN["__init__"][0], "generations", "proto", "start")


@pytest.mark.parametrize("name", sorted(ATTRIBUTES))
def test_the_parent_has_the_attribute(name: str) -> None:
    assert name in attributes_of(DPOTrainer), f"DPOTrainer has no `{name}` ({ATTRIBUTES[name]})"


@pytest.mark.parametrize(
    ("function", "names", "why"), TRICKS, ids=[f"{one.__qualname__}-{names[0]}" for one, names, _ in TRICKS]
)
def test_the_parent_still_does_it(function: Callable[..., object], names: tuple[str, ...], why: str) -> None:
    assert set(names) <= names_in(tree_of(function)), f"{function.__qualname__} {why}"


def names_in(tree: ast.AST) -> set[str]:
    """Return attributes, names, strings and keywords in a function."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.keyword) and node.arg is not None:
            found.add(node.arg)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
    return found


@pytest.mark.parametrize("name", sorted(PRIVATE))
def test_the_library_has_the_private_name(name: str) -> None:
    owner, why = PRIVATE[name]
    if isinstance(owner, type):
        assert name in attributes_of(owner), f"{owner.__name__} has no `{name}` ({why})"
        return
    module = owner if isinstance(owner, ModuleType) else importlib.import_module(str(owner))
    if not hasattr(module, name):
        importlib.import_module(f"{module.__name__}.{name}")


@functools.cache
def sources() -> list[ast.AST]:
    """Return every module of the package."""
    return [ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))]


def relied_on() -> set[str]:
    """Return the parents' names that our trainers override, call, read or set, and that phases use on a trainer."""
    of_parent = attributes_of(DPOTrainer)
    found = set()
    for cls in OURS:
        found |= {name for name in vars(cls) if name in of_parent and (name == "__init__" or name[:2] != "__")}
        for node in ast.walk(tree_of(cls)):
            if isinstance(node, ast.Attribute):
                of_super = ast.unparse(node.value) == "super()"
                found |= {node.attr} if of_super or (is_self(node.value) and node.attr in of_parent) else set()
    for tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "trainer":
                found |= {node.attr} & of_parent
    return found


def test_the_list_is_whole() -> None:
    """A parent's name that our trainers start or stop using has to be added or removed."""
    assert relied_on() == {*METHODS, *ATTRIBUTES}


def test_only_overridden_methods_are_listed_as_such() -> None:
    overridden = {name for cls in OURS for name in vars(cls) if callable(vars(cls)[name])}
    assert overridden & attributes_of(DPOTrainer) - set(dir(object)) == {*OVERRIDDEN} - {"__init__"}


def private_names() -> set[str]:
    """Return private names used in the package but not defined there: attributes, imports, and those in `getattr`."""
    used: set[str] = set()
    own: set[str] = set()
    for tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                (own if isinstance(node.ctx, ast.Store) and is_self(node.value) else used).add(node.attr)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                own.add(node.name)
            elif isinstance(node, ast.AnnAssign | ast.Assign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                own |= {target.id for target in targets if isinstance(target, ast.Name)}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                if node.module.split(".")[0] in LIBRARIES:
                    used |= {*node.module.split("."), *(alias.name for alias in node.names)}
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in {"getattr", "hasattr", "setattr"}:
                used |= {one.value for one in node.args if isinstance(one, ast.Constant)}
    private = re.compile(r"_[A-Za-z]\w*")
    of_parent = attributes_of(DPOTrainer)
    return {name for name in used if isinstance(name, str) and private.fullmatch(name)} - own - of_parent


def test_no_other_private_name_is_used() -> None:
    found = private_names() - OF_OTHERS
    assert found <= PRIVATE.keys()
    texts = {name for tree in sources() for name in names_in(tree)}
    assert PRIVATE.keys() <= found | texts
