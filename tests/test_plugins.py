"""Discovery, isolation of broken plugins, and every hook."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from blockframe import hookspecs
from blockframe.atoms.facts import Linear, Source
from blockframe.dynamics.probes import Probe
from blockframe.errors import InputError, PluginError, SpecError
from blockframe.hookspecs import hookimpl
from blockframe.plugins import Registry, load_plugins
from blockframe.problem import Problem, Request

Install = Callable[..., None]


class Distribution(importlib.metadata.Distribution):
    """An installed distribution that is not there."""

    def __init__(self, name: str, version: str) -> None:
        self._name, self._version = name, version

    @property
    def metadata(self) -> Any:
        return {"Name": self._name, "Version": self._version}

    def read_text(self, filename: str) -> str | None:
        return None

    def locate_file(self, path: Any) -> Any:
        raise FileNotFoundError(path)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """``install(acme={"blockframe_specs": lambda: ["a"]})``: these plugins and no others."""

    def _install(**plugins: dict[str, Callable[..., Any]] | ModuleType | str) -> None:
        entries = []
        for name, content in plugins.items():
            module = f"fake_plugin_{name}"
            if isinstance(content, dict):
                made = ModuleType(module)
                vars(made).update({hook: hookimpl(f) for hook, f in content.items()})
                monkeypatch.setitem(sys.modules, module, made)
            elif isinstance(content, ModuleType):
                monkeypatch.setitem(sys.modules, module, content)
            else:
                module = content
            entry = EntryPoint(name, module, "blockframe")
            entries.append(entry._for(Distribution(f"blockframe-{name}", "0.1")))  # type: ignore[attr-defined]
        found = EntryPoints(entries)
        monkeypatch.setattr(
            "blockframe.plugins.entry_points", lambda **chosen: found.select(**chosen)
        )

    monkeypatch.delenv("BLOCKFRAME_STRICT_PLUGINS", raising=False)
    return _install


def _nothing() -> list[Any]:
    return []


def _problem() -> Problem:
    torch = pytest.importorskip("torch")
    return Problem(torch.nn.Linear(2, 1), (torch.ones(3, 2),))


# --- discovery ----------------------------------------------------------------------------------


def test_the_core_is_a_plugin_like_any_other(install: Install) -> None:
    install()
    (core,) = load_plugins().plugins
    assert (core.name, core.distribution, core.state) == ("core", "blockframe-certify", "loaded")
    assert set(core.hooks) == {"clauses", "datasets", "losses", "probes", "renderers"}


def test_what_is_known_about_a_plugin(install: Install) -> None:
    install(acme={"blockframe_specs": lambda: ["b", "a"], "blockframe_atoms": _nothing})
    registry = load_plugins()
    acme = registry.plugins[-1]
    assert (acme.name, acme.distribution, acme.version) == ("acme", "blockframe-acme", "0.1")
    assert acme.hooks == ("atoms", "specs")
    assert registry.specs() == ["a", "b"]


@pytest.mark.parametrize(
    ("plugin", "says"),
    [
        ("no_such_module_acme", "ModuleNotFoundError: No module named 'no_such_module_acme'"),
        ("json:nothing", "AttributeError: module 'json' has no attribute 'nothing'"),
        ("json", "implements no hook: mark its functions with @blockframe.hookimpl"),
        ({"blockframe_nosuch": _nothing}, "unknown hook 'blockframe_nosuch'"),
        ({"blockframe_specs": lambda wrong: []}, r"Argument\(s\) {'wrong'} are declared"),
    ],
)  # fmt: skip
def test_a_broken_plugin_is_reported_and_takes_nothing_with_it(
    plugin: Any, says: str, install: Install
) -> None:
    install(acme=plugin, good={"blockframe_specs": lambda: ["a"]})
    registry = load_plugins()
    broken, good = registry.plugins[-2:]
    assert (broken.state, good.state) == ("broken", "loaded")
    assert registry.specs() == ["a"]
    with pytest.raises(PluginError, match=says):
        raise PluginError(broken.error)
    assert broken.warning.startswith("plugin blockframe-acme 0.1 could not be loaded (")
    assert broken.warning.endswith("); continuing without it.")
    assert "\n" not in broken.warning


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (
            "import acme_kernels",
            r"ModuleNotFoundError: No module named 'acme_kernels', at .*\.py:1",
        ),
        ("\nraise SystemExit(3)", r"SystemExit: 3, at .*\.py:2"),
        ("x = (", r"SyntaxError: '\(' was never closed, at .*\.py:1"),
    ],
)
def test_whatever_an_import_raises_is_reported(
    source: str, says: str, install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"broken_plugin_{abs(hash(source))}"
    (tmp_path / f"{module}.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    install(acme=module)
    with pytest.raises(PluginError, match=says):
        raise PluginError(load_plugins().plugins[-1].error)


def test_two_plugins_of_one_name(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install(core={"blockframe_specs": _nothing})
    registry = load_plugins()
    assert "the name 'core' is taken by blockframe-certify" in registry.plugins[-1].error


def test_strict(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install(acme="no_such_module_acme")
    with pytest.raises(PluginError, match=r"blockframe-acme 0\.1 could not be loaded"):
        load_plugins(strict=True)
    monkeypatch.setenv("BLOCKFRAME_STRICT_PLUGINS", "1")
    with pytest.raises(PluginError, match="unset BLOCKFRAME_STRICT_PLUGINS"):
        load_plugins()
    load_plugins(strict=False)
    monkeypatch.setenv("BLOCKFRAME_STRICT_PLUGINS", "0")
    load_plugins()


# --- hooks --------------------------------------------------------------------------------------


class Mine(Probe):
    name = "mine"

    def observe(self, it: Any) -> float:
        return 0.0


_NAMED = {
    "blockframe_clauses": ("clauses", SimpleNamespace(name="mine", decide=lambda analysis: [])),
    "blockframe_probes": ("probes", Mine),
    "blockframe_losses": ("losses", SimpleNamespace(name="mine")),
    "blockframe_datasets": ("datasets", SimpleNamespace(name="mine", load=lambda: b"")),
    "blockframe_renderers": ("renderers", SimpleNamespace(name="mine", render=lambda c, p: "")),
}  # fmt: skip


@pytest.fixture
def no_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """The core contributes nothing, so that a hook is seen alone."""
    empty = ModuleType("empty")
    vars(empty)["blockframe_specs"] = hookimpl(_nothing)
    monkeypatch.setattr("blockframe.plugins._core", lambda: empty)


def _contributed(registry: Registry, method: str) -> list[Any]:
    found = getattr(registry, method)()
    return list(found.values() if isinstance(found, dict) else found)


@pytest.mark.usefixtures("no_core")
@pytest.mark.parametrize("hook", _NAMED)
def test_hooks_that_contribute_by_name(hook: str, install: Install) -> None:
    method, item = _NAMED[hook]
    install(acme={hook: lambda: [item]})
    registry = load_plugins()
    assert _contributed(registry, method) == [item]
    if method != "clauses":
        assert list(getattr(registry, method)()) == ["mine"]


@pytest.mark.usefixtures("no_core")
@pytest.mark.parametrize("hook", _NAMED)
def test_one_name_from_two_plugins_is_an_error_that_names_both(hook: str, install: Install) -> None:
    method, item = _NAMED[hook]
    install(acme={hook: lambda: [item]}, other={hook: lambda: [item]})
    with pytest.raises(
        PluginError, match=r"'mine': blockframe-acme 0\.1 and blockframe-other 0\.1"
    ):
        _contributed(load_plugins(), method)


@pytest.mark.usefixtures("no_core")
@pytest.mark.parametrize("hook", [*_NAMED, "blockframe_atoms", "blockframe_specs"])
@pytest.mark.parametrize("wrong", [[3.5], 7, [None]], ids=repr)
def test_what_is_not_of_the_kind_is_refused(hook: str, wrong: Any, install: Install) -> None:
    method = _NAMED[hook][0] if hook in _NAMED else hook.removeprefix("blockframe_")
    install(acme={hook: lambda: wrong})
    with pytest.raises(PluginError, match=rf"{hook} of plugin blockframe-acme 0\.1"):
        _contributed(load_plugins(), method)


@pytest.mark.usefixtures("no_core")
@pytest.mark.parametrize("hook", [*_NAMED, "blockframe_atoms", "blockframe_specs"])
def test_an_exception_in_a_hook_names_plugin_and_hook(hook: str, install: Install) -> None:
    def fails() -> Any:
        yield from ()
        raise ValueError("kaput")

    method = _NAMED[hook][0] if hook in _NAMED else hook.removeprefix("blockframe_")
    install(acme={hook: fails})
    says = (
        rf"{hook} of plugin blockframe-acme 0\.1 failed: ValueError: kaput, at test_plugins\.py:\d+"
    )
    with pytest.raises(PluginError, match=says):
        _contributed(load_plugins(), method)


def test_atoms(install: Install) -> None:
    record = Linear(("acme::scale", "acme::shift"))
    install(acme={"blockframe_atoms": lambda: [record]})
    assert load_plugins().atoms() == [record]


def test_two_records_for_one_op(install: Install) -> None:
    install(
        acme={"blockframe_atoms": lambda: [Linear(("acme::scale", "acme::shift"))]},
        other={"blockframe_atoms": lambda: [Source("acme::shift")]},
    )
    with pytest.raises(PluginError, match=r"'acme::shift': blockframe-acme.* and blockframe-other"):
        load_plugins().atoms()


def test_chain_hooks_follow_each_other(install: Install) -> None:
    def adds(word: str) -> Callable[..., Any]:
        return lambda problem, chain: [*chain, word]

    install(
        a={"blockframe_chain": adds("a")},
        b={"blockframe_chain": lambda problem, chain: None},
        c={"blockframe_chain": adds("c")},
    )
    cut: Any = ["core"]
    assert load_plugins().chain(_problem(), cut) == ["core", "a", "c"]


def test_resolve_gets_spec_and_request(install: Install) -> None:
    problem = _problem()
    seen: list[Any] = []

    def resolve(spec: str, request: Request) -> Problem | None:
        seen.append((spec, request.seed, "text" in request.datasets))
        return problem if spec == "net" else None

    install(acme={"blockframe_resolve": resolve})
    found = load_plugins().resolve("net", Request(seed=5))
    assert found.module is problem.module
    assert found.spec == "net"
    assert seen == [("net", 5, True)]


def test_errors_for_the_user_pass_through_hooks_unchanged(install: Install) -> None:
    def resolve(spec: str, request: Request) -> Problem | None:
        raise SpecError("net has no setting 'x'", "Try y.")

    install(acme={"blockframe_resolve": resolve})
    with pytest.raises(SpecError, match=r"^net has no setting 'x'\. Try y\.$"):
        load_plugins().resolve("net", Request())


def test_every_hook_has_a_test() -> None:
    """What is above, against the specifications."""
    tested = {
        *_NAMED,
        "blockframe_atoms",
        "blockframe_specs",
        "blockframe_chain",
        "blockframe_resolve",
    }
    assert tested == {name for name in vars(hookspecs) if name.startswith("blockframe_")}


def test_unknown_format_suggests(install: Install) -> None:
    install()
    with pytest.raises(InputError, match=r"there is no format 'jsn'\. Did you mean json\?"):
        load_plugins().renderer("jsn")


def test_loading_plugins_does_not_import_torch() -> None:
    code = (
        "import sys, blockframe.plugins as p; r = p.load_plugins(); r.specs(); r.renderers();"
        "r.datasets(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
