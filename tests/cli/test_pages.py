"""The man-style pages: one a command, the same sections in the same order, every option there."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from kinfolk.cli.main import COMMANDS, group

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
SECTIONS = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "EXAMPLES", "SEE ALSO"]


def command_of(name: str) -> click.Command:
    command = group.get_command(click.Context(group), name)
    assert command is not None
    return command


def page_of(name: str) -> str:
    return (REFERENCE / f"kin-{name}.md").read_text()


@pytest.mark.parametrize("page", sorted(REFERENCE.glob("kin*.md")), ids=lambda page: page.stem)
def test_sections_stand_in_the_usual_order(page):
    sections = re.findall(r"^## (.*)$", page.read_text(), re.MULTILINE)
    assert [section for section in sections if section != "ENVIRONMENT"] == SECTIONS


def test_every_command_has_a_page_and_every_page_a_command():
    pages = {page.stem.removeprefix("kin-") for page in REFERENCE.glob("kin-*.md")}
    assert pages == set(COMMANDS)
    overview = (REFERENCE / "kin.md").read_text()
    assert re.findall(r"\[kin (\w+)\]", overview) == list(COMMANDS)


@pytest.mark.parametrize("readme", ["README.md", "README.zh-CN.md"])
def test_the_readme_shows_every_command_and_no_other(readme):
    text = (REFERENCE.parents[1] / readme).read_text()
    assert set(re.findall(r"^ {4}kin (\w+)", text, re.MULTILINE)) == set(COMMANDS)


def test_help_and_page_speak_of_the_same():
    """Of processes and of data."""
    said = (group.help or "").rstrip(".")
    name = re.findall(r"^kin - (.*)$", (REFERENCE / "kin.md").read_text(), re.MULTILINE)[0]
    assert said.startswith(name[0].upper() + name[1:])
    assert "processes" in said
    assert "data" in said


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_names_every_option_and_no_other(name):
    command = command_of(name)
    context = click.Context(command, help_option_names=["-h", "--help"])
    options = {
        spelling
        for parameter in command.get_params(context)
        if isinstance(parameter, click.Option)
        for spelling in parameter.opts
    }
    section = page_of(name).split("## OPTIONS\n")[1].split("\n## ")[0]
    heads = re.findall(r"^`(-.*)`$", section, re.MULTILINE)
    named = {word.split()[0] for head in heads for word in head.replace("`", "").split(", ")}
    assert named == options


@pytest.mark.parametrize("name", COMMANDS)
def test_the_overview_says_what_the_help_says(name):
    help_text = command_of(name).short_help or ""
    overview = (REFERENCE / "kin.md").read_text()
    said = re.findall(rf"\[kin {name}\].* \| (.*) \|$", overview, re.MULTILINE)[0]
    assert said == help_text[0].lower() + help_text[1:].rstrip(".")


@pytest.mark.parametrize("page", sorted(REFERENCE.glob("*.md")), ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target
