"""The documents say what the program does, as far as a program can tell."""

import inspect
import re
import tomllib
import types
from pathlib import Path

import attrs
import click
import pytest
import torch

import blockframe
from blockframe import hookspecs
from blockframe.atoms.facts import KINDS, Atom
from blockframe.errors import BlockframeError
from blockframe.plugins import load_plugins
from blockframe.report import Page

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("plugins/*/*.md")])
HOOKS = {name: value for name, value in vars(hookspecs).items() if name.startswith("blockframe_")}


def links(page: Path) -> list[str]:
    """Targets of the relative links of a page."""
    found = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    return [link for link in found if "://" not in link]


def anchors(page: Path) -> set[str]:
    """The names under which the headings of a page can be linked."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page: Path) -> None:
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}"


def test_every_page_is_linked_from_the_index() -> None:
    linked = {link.partition("#")[0] for link in links(ROOT / "docs/index.md")}
    assert linked == {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}


@pytest.mark.parametrize("hook", sorted(HOOKS))
def test_every_hook_is_documented_with_its_signature(hook: str) -> None:
    signature = str(inspect.signature(HOOKS[hook])).replace("'", "")
    text = (ROOT / "docs/plugins.md").read_text(encoding="utf-8")
    assert f"### `{hook}{signature}`\n" in text


def test_no_hook_is_documented_that_does_not_exist() -> None:
    text = (ROOT / "docs/plugins.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^### `(blockframe_\w+)", text, re.MULTILINE)) == set(HOOKS)


def test_the_plugin_in_the_documents_works() -> None:
    """Its blocks of Python, one after the other, are one plugin."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/plugins.md").read_text("utf-8"), re.S)
    plugin = types.ModuleType("blockframe_acme")
    exec("".join(b for b in blocks if "registry" not in b), vars(plugin))
    registry = load_plugins()
    registry.add("acme", plugin)
    options = {"registry": registry, "steps": 1, "static_only": False}
    cert = blockframe.certify("acme", loss="logcosh", probes=["gradient_max"], **options)
    assert cert.claim("descent").verdict == "HOLDS"
    assert len(cert.trajectory.series["gradient_max"]) == 2
    assert cert.trajectory.summary["units"] == {"gradient_max": "L/θ"}
    assert cert.subject.data == "sums of four; weights drawn at random (default, seed 0)"
    assert registry.renderer("line").render(cert, Page()) == "acme: CERTIFIED\n"
    cert = blockframe.certify("mlp", data="sums", **options)
    assert cert.subject.data.startswith("four normal numbers and their sum")
    for wrong in ({"settings": {"width": 3}}, {"data": "sums"}, {"loss": "ce"}):
        with pytest.raises(BlockframeError, match=r"acme has .*\. (Leave out|Take) --"):
            blockframe.certify("acme", **options, **wrong)


def test_the_model_of_huggingface_in_the_index_works() -> None:
    pytest.importorskip("transformers")
    text = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    (block,) = [b for b in re.findall(r"```python\n(.*?)```", text, re.S) if "Llama" in b]
    names = {"torch": torch, "blockframe": blockframe}
    exec(block.replace("certify(problem)", "certify(problem, steps=1)"), names)
    assert names["cert"].trajectory.completed == 1


def test_every_field_of_a_problem_is_documented() -> None:
    text = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    rows = "".join(re.findall(r"^\| `.*?\|", text, re.M))
    fields = {a.name for a in attrs.fields(blockframe.Problem)}
    assert fields <= set(re.findall(r"`(\w+)`", rows))


def test_every_series_and_summary_of_a_run_is_documented() -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
    run = blockframe.certify((module, (torch.randn(4, 2),), torch.randn(4, 1)), steps=2).trajectory
    blocks = {n.partition(".")[2] for n in run.series if n.startswith("block_norms.")}
    names = {n.replace(n.partition(".")[2], "BLOCK") if n.partition(".")[2] in blocks else n
             for n in run.series}  # fmt: skip
    keys = run.summary.keys() | {
        key for value in run.summary.values() if isinstance(value, dict) for key in value
    }
    text = (ROOT / "docs/certificate.md").read_text(encoding="utf-8")
    rows = "".join(re.findall(r"^\| `.*$", text, re.M))
    assert names | keys <= set(re.findall(r"`([\w.]+)`", rows))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_fact_of_every_kind_is_documented(kind: type[Atom]) -> None:
    text = (ROOT / "docs/atoms.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith(f"| `{kind.__name__}` |")]
    assert len(rows) == 1
    facts = {a.name for a in attrs.fields(kind)} - {a.name for a in attrs.fields(Atom)}
    assert facts <= set(re.findall(r"`(\w+)`", rows[0])), kind.__name__


def test_the_theory_has_the_sections_that_the_code_cites() -> None:
    source = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "blockframe").rglob("*.py"))
    cited = set(re.findall(r"theory,? section (\d+)", source))
    text = (ROOT / "docs/theory.md").read_text(encoding="utf-8")
    assert cited <= set(re.findall(r"^## (\d+)\. ", text, re.MULTILINE))


def test_every_option_is_documented() -> None:
    from blockframe.cli.program import program

    text = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    missing = [f"{path} {name}" for path, name in options(program) if f"`{name}" not in text]
    assert not missing


def options(command: click.Command, path: str = "") -> list[tuple[str, str]]:
    """Long names of all options of a command and the commands in it, with their command."""
    found = [(path, p.opts[-1]) for p in command.params if isinstance(p, click.Option)]
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            found += options(inner, f"{path} {name}".strip())
    return found


def test_readme_states_two_commands_that_share_their_installation() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    certify, tests = re.findall(r"^python3 -m venv .*$", text, re.MULTILINE)
    assert certify.endswith("&& blockframe certify gpt2")
    assert tests.endswith("&& pytest -n auto")
    assert tests.replace(" -r requirements-dev.txt", "").startswith(
        certify.removesuffix("blockframe certify gpt2")
    )


def test_requirements_are_pinned() -> None:
    """A package without a pin would make the README's commands depend on the day."""
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = {_normal(name) for name in re.findall(r"^([\w.-]+)==", pins, re.MULTILINE)}
    dev = (ROOT / "requirements-dev.txt").read_text(encoding="utf-8").splitlines()
    wanted = [line for line in dev if re.match(r"\w", line)]
    for project in [ROOT / "pyproject.toml", *ROOT.glob("plugins/*/pyproject.toml")]:
        wanted += tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    names = {_normal(re.match(r"[\w.-]+", line)[0]) for line in wanted}
    own = {"blockframe-certify"} | {p.parent.name for p in ROOT.glob("plugins/*/pyproject.toml")}
    assert names - own <= pinned


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
