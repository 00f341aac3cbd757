"""Issue templates ask for what is needed, and pre-commit hooks agree with the rest of the repository."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pre_commit.clientlib import load_config

from project.repository import TOP, constraint, missing_targets, of_schema, settings, text_of, tracked, yaml_of

FORMS = sorted(path.relative_to(TOP).as_posix() for path in TOP.glob(".github/ISSUE_TEMPLATE/*.yml"))
BUG = ".github/ISSUE_TEMPLATE/bug.yml"
CONFIG = ".github/ISSUE_TEMPLATE/config.yml"


def required(form: str) -> dict[str, dict[str, Any]]:
    """Return the fields without which an issue can't be sent, by id."""
    return {
        field["id"]: field["attributes"]
        for field in yaml_of(form)["body"]
        if field.get("validations", {}).get("required")
    }


def test_forms_are_valid() -> None:
    """They are checked against GitHub's own schema."""
    forms = [form for form in FORMS if form != CONFIG]
    assert len(forms) == 2
    assert of_schema("github-issue-forms", *forms) == ""
    assert of_schema("github-issue-config", CONFIG) == ""


def test_a_bug_comes_with_what_answers_most_questions() -> None:
    fields = required(BUG)
    assert set(fields) == {"what", "command", "versions", "files"}
    assert "`spin-trl --version`" in fields["versions"]["description"]
    assert all(name in fields["files"]["description"] for name in ("report.html", "journal.jsonl", "recipe.yaml"))


def test_whoever_sends_a_run_is_told_that_it_shows_data() -> None:
    assert re.search(r"report\.html.* shows samples of your data", text_of(BUG))
    boxes = next(field for field in yaml_of(BUG)["body"] if field["type"] == "checkboxes")
    assert [box for box in boxes["attributes"]["options"] if box.get("required")] != []


def test_vulnerabilities_are_sent_elsewhere() -> None:
    links = [link["url"] for link in yaml_of(CONFIG)["contact_links"]]
    assert f"{settings()['metadata']['url']}/security/advisories/new" in links
    assert "in private" in text_of("SECURITY.md")


def test_the_pull_request_template_names_what_is_there() -> None:
    text = text_of(".github/pull_request_template.md")
    assert missing_targets(re.findall(r"`(make [^`]*)`", text)) == []
    assert [path for path in re.findall(r"`([\w/]+\.(?:py|md))`", text) if not (TOP / path).exists()] == []


def test_hooks_are_valid() -> None:
    """pre-commit itself raises if they are not."""
    assert load_config(str(TOP / ".pre-commit-config.yaml"))["repos"]


def test_hooks_have_the_versions_that_tests_have() -> None:
    """Another ruff would format different lines than `make lint`."""
    revisions = {repo["repo"]: repo.get("rev") for repo in yaml_of(".pre-commit-config.yaml")["repos"]}
    assert revisions["https://github.com/astral-sh/ruff-pre-commit"] == f"v{constraint('ruff')}"
    assert all(re.fullmatch(r"v\d+\.\d+\.\d+", rev) for name, rev in revisions.items() if name != "local")


def test_a_commit_is_formatted_linted_small_and_linked() -> None:
    hooks = {hook["id"]: hook for repo in yaml_of(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]}
    assert {"ruff-check", "ruff-format", "check-added-large-files", "links"} <= set(hooks)
    assert hooks["links"]["entry"].split()[-2:] == ["tests/test_documents.py", "tests/documents/test_links.py"]


def test_no_file_is_larger_than_the_hook_allows() -> None:
    hooks = {hook["id"]: hook for repo in yaml_of(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]}
    allowed = int(hooks["check-added-large-files"]["args"][0].removeprefix("--maxkb="))
    sizes = {name: (TOP / name).stat().st_size for name in tracked()}
    assert len(sizes) > 100
    assert [name for name, size in sizes.items() if size > allowed * 1024] == []


@pytest.mark.parametrize("name", ["RELEASE.md", "CITATION.cff", "SECURITY.md", "CONTRIBUTING.md", "LICENSE"])
def test_what_github_looks_for_is_at_the_top(name: str) -> None:
    assert (TOP / name).is_file()
