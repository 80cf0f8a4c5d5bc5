"""``blockframe explain``."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from blockframe.cli.program import program
from blockframe.contract.codes import CODES
from blockframe.report import Page
from blockframe.report.codes import explanation, overview


def explain(*arguments: str) -> Result:
    return CliRunner().invoke(program, ["explain", *arguments], env={"COLUMNS": "100"})


A101 = """\
A101 kink
  means    a value that depends on parameters reaches a point where a derivative jumps
  verdict  analyticity FAILS where there is a witness, else it is UNKNOWN
  causes   relu, leaky_relu, abs, hardtanh, clamp, max and max pooling, sort, top-k
  help     the theory needs an analytic function here: gelu, silu or tanh instead of relu, average
           instead of maximum

  bad      f = torch.relu

  good     f = F.gelu

  In an example, f stands between two linear layers of a small network; net is a whole network, x
  and y its data; lr is an option of certify.

  more     docs/theory section 1, docs/findings
"""


@pytest.mark.parametrize("spelled", ["A101", "a101"])
def test_one_code(spelled: str) -> None:
    result = explain(spelled)
    assert (result.exit_code, result.stdout) == (0, A101)


def test_a_word_that_stands_for_a_number_is_explained() -> None:
    told = "LIMIT: a number that the finding gives"
    assert told in explain("D401").stdout
    assert told not in explain("D403").stdout


@pytest.mark.parametrize("code", CODES)
def test_every_code_says_everything(code: str) -> None:
    record = CODES[code]
    result = explain(code)
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    said = [record.code, record.name, record.meaning, record.causes, *record.remedies, record.docs]
    if record.example:
        said += [record.example.bad, record.example.good]
    for part in said:
        assert " ".join(part.split()) in text
    verdict = next(line for line in result.stdout.splitlines() if line.startswith("  verdict"))
    assert ("FAILS" in verdict, "a note" in verdict) == (
        record.worst == "FAILS",
        record.worst is None,
    )


def test_the_lines_of_an_example_keep_their_places() -> None:
    lines = explain("A302").stdout.splitlines()
    start = lines.index("  bad      class Double(torch.autograd.Function):")
    assert lines[start + 1 : start + 3] == [
        "               @staticmethod",
        "               def forward(ctx, h):",
    ]


def test_without_a_code_all_are_listed_one_line_each() -> None:
    result = explain()
    assert result.exit_code == 0
    header, *lines = result.stdout.splitlines()
    assert header.split() == ["code", "name", "clause", "verdict"]
    assert [line.split()[0] for line in lines] == list(CODES)
    for line, record in zip(lines, CODES.values(), strict=True):
        assert record.name in line
        assert line.endswith(record.worst or "note")


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("A1O1", "there is no finding code 'A1O1'. Did you mean A101, "),
        ("d411", "Did you mean D401"),
        ("frobnicate", "`blockframe explain` lists them all."),
    ],
)
@pytest.mark.parametrize("more", [[], ["--format", "json"]])
def test_an_unknown_code(typed: str, says: str, more: list[str]) -> None:
    result = explain(typed, *more)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("blockframe: ")
    assert result.stderr.count("\n") == 1
    assert says in result.stderr


def test_json() -> None:
    one = json.loads(explain("d401", "--format", "json").stdout)
    record = CODES["D401"]
    assert record.example is not None
    assert one == {
        "code": "D401",
        "name": record.name,
        "clause": "descent",
        "worst": "FAILS",
        "meaning": record.meaning,
        "causes": record.causes,
        "help": record.help,
        "special": dict(record.special),
        "docs": record.docs,
        "example": {"bad": record.example.bad, "good": record.example.good},
    }
    every = json.loads(explain("--format", "json").stdout)
    assert [entry["code"] for entry in every] == list(CODES)
    assert one in every


@pytest.mark.parametrize("width", [40, 60, 100, 160])
@pytest.mark.parametrize("unicode", [True, False])
def test_width_and_character_set(width: int, unicode: bool) -> None:
    page = Page(width=width, unicode=unicode)
    for text in (overview(CODES.values(), page), *(explanation(c, page) for c in CODES.values())):
        assert max(map(len, text.splitlines())) <= width
        assert unicode or text.isascii()
        assert text.endswith("\n")
