r"""Formulas of the documentation site as MathML, which browsers draw by themselves: no script and no font from elsewhere.

A formula is written as GitHub reads it, with dollar signs around a code span: $`\ell = \log(1 + e^{-r})`$. In tables, `\|`
stands for `|`.
"""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element

from latex2mathml.converter import convert_to_element
from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor

_FORMULA = r"\$`(.+?)`\$"
_BEFORE_CODE_SPANS = 200  # theirs is 190: they would take what stands between the dollar signs


class _Formula(InlineProcessor):
    def handleMatch(self, m: re.Match[str], data: str) -> tuple[Element, int, int]:  # type: ignore[override]  # noqa: N802
        return convert_to_element(m[1].replace(r"\|", "|")), m.start(0), m.end(0)


class MathML(Extension):
    """Turns formulas into MathML."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        """Register the pattern of formulas."""
        md.inlinePatterns.register(_Formula(_FORMULA, md), "formula", _BEFORE_CODE_SPANS)
