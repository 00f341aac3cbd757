"""`spin-trl recipes` lists the recipes that ship with the package."""

from spin_trl.cli import main


def test_the_list_of_recipes_has_the_quickstart(capsys):
    assert main(["recipes"]) == 0
    assert "quickstart" in capsys.readouterr().out
