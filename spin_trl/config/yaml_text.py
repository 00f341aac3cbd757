"""Parses YAML that somebody else has written, within limits.

A text of a few lines may stand for billions of values, by aliases of aliases, and a value may stand in itself. Whatever goes
through settings later (the search for credentials, checks, messages, JSON) would never end, so such a text is refused here.
"""

from __future__ import annotations

from typing import Any

import yaml

MOST_VALUES = 100_000
"""Values that a text may stand for, with aliases written out. A recipe has some hundred."""

MOST_DEEP = 50
"""How deep values may be nested. Python's own limit is met at some hundred."""

_OF_VALUES = (ValueError, LookupError, ArithmeticError, TypeError, AttributeError)
"""What the functions raise that make a value of a text: of numbers of thousands of digits, dates that there are not, and
characters beyond Unicode."""


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which ends where a text is nested too deeply: reading on would take time by the square of it."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > MOST_DEEP:
            raise yaml.MarkedYAMLError(problem="it is nested too deeply", problem_mark=self.get_mark())
        found = super().compose_node(parent, index)
        self.depth -= 1
        return found


def parse_yaml(text: str) -> Any:
    """The value that a text stands for.

    Raises:
        yaml.YAMLError: it is no YAML, a value can't be made of it, or it is too much of it, or too deep.
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
    """How many values a node stands for, and how deep it goes; raise if that is too much.

    Args:
        node: which an alias may share with others.
        known: of the nodes that were counted, by their ids.
        above: ids of those that the node stands in.
    """
    if id(node) in above:
        raise yaml.MarkedYAMLError(problem="an alias stands for what it stands in", problem_mark=node.start_mark)
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
        problem = f"with its aliases it stands for more than {MOST_VALUES:,} values"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
    return size, depth
