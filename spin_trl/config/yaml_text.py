"""Parse untrusted YAML within limits.

With aliases of aliases, a few lines can expand to billions of values, and a value can contain itself. Code that walks the
settings later (the search for credentials, checks, messages, JSON) would never finish, so such text is refused here.
"""

from __future__ import annotations

from typing import Any

import yaml

MOST_VALUES = 100_000
"""Maximum number of values in a text, with aliases expanded. A recipe has a few hundred."""

MOST_DEEP = 50
"""Maximum nesting depth. Python's own limit is reached at a few hundred."""

_OF_VALUES = (ValueError, LookupError, ArithmeticError, TypeError, AttributeError)
"""Errors that YAML's constructors raise for numbers with thousands of digits, impossible dates, and characters outside
Unicode."""


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, except that it stops at text nested too deeply, which would take quadratic time to read."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > MOST_DEEP:
            raise yaml.MarkedYAMLError(problem="it is nested too deeply", problem_mark=self.get_mark())
        found = super().compose_node(parent, index)
        self.depth -= 1
        return found


def parse_yaml(text: str) -> Any:
    """Parse YAML text.

    Raises:
        yaml.YAMLError: if it is not YAML, holds an impossible value, is too large with aliases expanded, or is nested too
            deeply.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _size(node, {}, ())
        return loader.construct_document(node)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except _OF_VALUES as error:
        raise yaml.YAMLError(str(error)) from error
    finally:
        loader.dispose()


def _size(node: yaml.Node, known: dict[int, tuple[int, int]], above: tuple[int, ...]) -> tuple[int, int]:
    """Return the number of values in a node and its depth, with aliases expanded; raise if either is too large.

    Args:
        node: node to measure; several aliases may refer to it.
        known: results for nodes already measured, by id.
        above: ids of the enclosing nodes.
    """
    if id(node) in above:
        raise yaml.MarkedYAMLError(problem="an alias refers to a value that contains it", problem_mark=node.start_mark)
    if id(node) not in known:
        within = (*above, id(node))
        parts: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            parts = node.value
        elif isinstance(node, yaml.MappingNode):
            parts = [part for entry in node.value for part in entry]
        sizes = [_size(part, known, within) for part in parts]
        known[id(node)] = 1 + sum(size for size, _ in sizes), 1 + max((depth for _, depth in sizes), default=0)
    size, depth = known[id(node)]
    if depth > MOST_DEEP:
        raise yaml.MarkedYAMLError(problem="it is nested too deeply", problem_mark=node.start_mark)
    if size > MOST_VALUES:
        problem = f"with its aliases expanded, it holds more than {MOST_VALUES:,} values"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
    return size, depth
