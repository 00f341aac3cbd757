"""Parts of the shards of a store, one for each of several machines (see [`merge`])."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import RecipeError

_PART = re.compile(r"([1-9]\d{0,5})/([1-9]\d{0,5})", re.ASCII)


@dataclass(frozen=True)
class GenerationPart:
    """A part of the shards: every `count`th one.

    Attributes:
        number: number of the part, from 1 to `count`.
        count: number of parts.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> GenerationPart:
        """Parse `I/N`.

        Raises:
            RecipeError: if it is not of this form, or I is more than N.
        """
        found = _PART.fullmatch(text)
        if found is None or int(found[1]) > int(found[2]):
            raise RecipeError(f"{text!r} is not a part of the shards; expected I/N, with I from 1 to N, such as 1/8.")
        return cls(int(found[1]), int(found[2]))

    @property
    def name(self) -> str:
        """Name of the part's folder."""
        return f"{self.number}-of-{self.count}"

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def shards(self, num_shards: int) -> range:
        """Return the numbers of the part's shards."""
        return range(self.number - 1, num_shards, self.count)
