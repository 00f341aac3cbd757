"""The objectives page shows what the objectives declare."""

from reference.objectives_table import PAGE, with_table


def test_the_page_has_the_table_of_the_objectives() -> None:
    """`make reference` writes it."""
    page = PAGE.read_text(encoding="utf-8")
    assert page == with_table(page)
