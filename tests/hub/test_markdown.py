"""Text from a model or a dataset stays text in a card."""

import pytest

from spin_trl.hub.markdown import code, escaped, fenced, rows, table
from spin_trl.report.tables import Cell, Row, Table


@pytest.mark.parametrize(
    "text",
    [
        "```\n# A heading\n```",
        "`````\n---\nlicense: mit\n---",
        "</details><script>alert(1)</script>",
        "~~~\n[a](http://evil.example)",
        "a\u2028```\n# heading",
    ],
)
def test_a_block_ends_only_where_we_end_it(text: str) -> None:
    """No line of the text is a fence as long as the one around it."""
    first, *middle, last = fenced(text).split("\n")
    fence = first.removesuffix("text")
    assert last == fence
    assert set(fence) == {"`"}
    assert not any(line.strip().startswith(fence) for line in middle)


def test_long_texts_are_cut_and_that_is_said() -> None:
    assert fenced("a" * 30, longest=10) == "```text\naaaaaaaaaa\n… and 20 more characters\n```"


def test_a_name_is_no_markup() -> None:
    assert escaped("a|b *c* <d>\ne") == r"a\|b \*c\* \<d\> e"
    assert code("a`b|c") == r"`a'b\|c`"


def test_tables_have_a_line_a_row_whatever_stands_in_them() -> None:
    found = Table(["model", "x|y"], [Row("one\ntwo", [Cell("1|2", "small\nprint")], is_best=True)])
    assert table(found).split("\n") == [
        r"| model | x\|y |",
        "| --- | --- |",
        r"| **one<br>two** | 1\|2<br><small>small<br>print</small> |",
    ]
    assert rows(["a"], [["b"]]) == "| a |\n| --- |\n| b |"
