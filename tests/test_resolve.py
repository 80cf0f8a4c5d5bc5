"""From a spec, or from objects, to a problem."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pluggy
import pytest
import torch
from torch import nn

from blockframe import hookspecs
from blockframe.data import Dataset, Samples
from blockframe.errors import BlockframeError, InputError, PluginError, SpecError
from blockframe.hookspecs import hookimpl
from blockframe.plugins import Plugin, PluginInfo, Registry
from blockframe.problem import Problem, Request
from blockframe.resolve import as_problem, resolve


class Nets:
    """A plugin that resolves the names it is made with."""

    def __init__(self, *names: str) -> None:
        self.names = names

    @hookimpl
    def blockframe_specs(self) -> list[str]:
        return list(self.names)

    @hookimpl
    def blockframe_resolve(self, spec: str, request: Request) -> Problem | None:
        return Problem(nn.Linear(2, 1), (torch.ones(3, 2),)) if spec in self.names else None


class Core:
    """What supplying data needs of the core."""

    @hookimpl
    def blockframe_losses(self) -> list[Any]:
        from blockframe.dynamics.losses import LOSSES

        return list(LOSSES)

    @hookimpl
    def blockframe_datasets(self) -> list[Dataset]:
        x = np.arange(12.0).reshape(6, 2)
        return [
            Dataset("classes", "six rows in three classes", lambda: Samples(x, np.arange(6) % 3)),
            Dataset("reals", "six rows with a number each", lambda: Samples(x, x[:, :1])),
            Dataset("prose", "a text", lambda: b"some words"),
        ]


def registry(**plugins: object) -> Registry:
    made = Registry()
    for name, plugin in plugins.items():
        info = PluginInfo(name, f"blockframe-{name}", "0.1")
        manager = pluggy.PluginManager("blockframe")
        manager.add_hookspecs(hookspecs)
        manager.register(plugin)
        made.plugins.append(info)
        made.loaded.append(Plugin(info, manager))
    return made


CORE = registry(core=Core())


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Writes my_model.py into the current directory; returns its name."""
    monkeypatch.chdir(tmp_path)

    def _write(source: str) -> str:
        head = "import torch\nfrom torch import nn\n"
        (tmp_path / "my_model.py").write_text(head + dedent(source), encoding="utf-8")
        return "my_model.py"

    return _write


# --- names that plugins know --------------------------------------------------------------------


def test_a_name() -> None:
    assert resolve("net", Request(), registry(a=Nets("net"), b=Nets("other"))).spec == "net"


def test_nearest_names() -> None:
    known = registry(a=Nets("gpt2", "gptj", "gpt_neo"), b=Nets("mlp"))
    says = r"^no plugin resolves 'gtp2'\. Did you mean gpt2, gptj\?   \(blockframe plugins list\)$"
    with pytest.raises(SpecError, match=says):
        resolve("gtp2", Request(), known)
    with pytest.raises(SpecError, match="Did you mean mlp"):
        resolve("MLPS", Request(), known)


@pytest.mark.parametrize("spec", ["zzzzzz", "", ":", ":b", "some/dir", "x.py.txt"])
def test_nothing_like_it(spec: str) -> None:
    with pytest.raises(SpecError, match=r"no plugin resolves .* See `blockframe plugins list`"):
        resolve(spec, Request(), registry(a=Nets("gpt2")))


def test_two_plugins_know_it() -> None:
    both = registry(a=Nets("net"), b=Nets("net"))
    says = r"'net' is resolved by a and by b\. Choose: a:net or b:net\."
    with pytest.raises(SpecError, match=says):
        resolve("net", Request(), both)
    assert resolve("b:net", Request(), both).spec == "b:net"


def test_one_plugin_is_asked() -> None:
    with pytest.raises(SpecError, match=r"no plugin resolves 'a:ned'\. Did you mean a:net\?"):
        resolve("a:ned", Request(), registry(a=Nets("net"), b=Nets("other")))
    with pytest.raises(SpecError, match=r"no plugin resolves 'acm:ne'\. Did you mean acme:net"):
        resolve("acm:ne", Request(), registry(acme=Nets("net")))


def test_a_broken_plugin_is_asked() -> None:
    known = registry(a=Nets("net"))
    known.plugins.append(
        PluginInfo("b", "blockframe-b", "2", state="broken", error="ImportError: c")
    )
    with pytest.raises(
        SpecError, match=r"plugin blockframe-b 2 could not be loaded \(ImportError: c\)"
    ):
        resolve("b:net", Request(), known)


def test_a_plugin_that_resolves_to_nonsense() -> None:
    class Nonsense:
        @hookimpl
        def blockframe_resolve(self, spec: str, request: Request) -> Any:
            return nn.Linear(1, 1)

    with pytest.raises(PluginError, match=r"blockframe_resolve of plugin .* returned a Linear"):
        resolve("net", Request(), registry(a=Nonsense()))


# --- Python files and modules -------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "net = nn.Linear(2, 1), (torch.ones(3, 2),)",
        "def net(): return nn.Linear(2, 1), (torch.ones(3, 2),)",
        "net = lambda: (nn.Linear(2, 1), (torch.ones(3, 2),), torch.zeros(3, 1))",
        "import blockframe.problem as b\nnet = b.Problem(nn.Linear(2, 1), (torch.ones(3, 2),))",
        "class A:\n  def __call__(self): return nn.Linear(2, 1), (torch.ones(3, 2),)\nnet = A()",
    ],
)
def test_what_a_file_can_hold(source: str, write: Callable[[str], str], tmp_path: Path) -> None:
    problem = resolve(f"{write(source)}:net", Request(), CORE)
    assert problem.parameters == 3
    assert problem.spec == "my_model.py:net"
    path = f"{tmp_path}/my_model.py:net"
    assert resolve(path, Request(), CORE).spec == path


def test_files_and_modules_import_their_neighbours(
    write: Callable[[str], str], tmp_path: Path
) -> None:
    (tmp_path / "beside_the_model.py").write_text("WIDTH = 7\n", encoding="utf-8")
    write("""
        import beside_the_model
        def net(): return nn.Linear(beside_the_model.WIDTH, 1), (torch.ones(3, 7),)
    """)
    assert resolve("my_model.py:net", Request(), CORE).parameters == 8
    assert resolve("my_model:net", Request(), CORE).parameters == 8


def test_a_module_path_with_dots() -> None:
    with pytest.raises(InputError, match=r"torch\.nn:ReLU returned a ReLU without inputs"):
        resolve("torch.nn:ReLU", Request(), CORE)
    with pytest.raises(SpecError, match=r"torch\.nn:Linear needs a value for in_features, out"):
        resolve("torch.nn:Linear", Request(), CORE)
    with pytest.raises(SpecError, match=r"torch\.nosuch could not be imported: ModuleNotFound"):
        resolve("torch.nosuch:x", Request(), CORE)


def test_settings_become_keywords(write: Callable[[str], str]) -> None:
    spec = write("""
        def net(width, *, depth=1):
            layers = [nn.Linear(width, width) for _ in range(depth)]
            return nn.Sequential(*layers), (torch.ones(1, width),)
    """) + ":net"  # fmt: skip
    assert resolve(spec, Request({"width": 3, "depth": 2}), CORE).parameters == 24
    with pytest.raises(SpecError, match=r"has no setting 'dept'\. Did you mean depth\?"):
        resolve(spec, Request({"width": 3, "dept": 2}), CORE)
    with pytest.raises(
        SpecError, match=r"my_model\.py:net needs a value for width\. Give it with --set"
    ):
        resolve(spec, Request(), CORE)


def test_settings_for_what_is_no_function(write: Callable[[str], str]) -> None:
    spec = write("net = nn.Linear(2, 1), (torch.ones(3, 2),)") + ":net"
    with pytest.raises(SpecError, match="is a tuple of 2 and takes no settings"):
        resolve(spec, Request({"width": 3}), CORE)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def make(): return nn.Linear(2, 1)",
         r"my_model\.py:make returned a Linear without inputs\. Return \(module, inputs\), or "),
        ("make = nn.Linear(2, 1)", r"my_model\.py:make is a Linear without inputs\. Make it \("),
        ("make = None", r"my_model\.py:make is None"),
        ("def make(): return None", "returned None"),
        ("def make(): return 1, 2, 3, 4", "returned a tuple of 4"),
        ("def make(): return 1, 2", "int is not a torch.nn.Module"),
        ("def make(): return nn.Linear(2, 1), torch.ones(2)", "inputs must be a tuple of tensors"),
        ("def make(): return nn.Linear(2, 1), (torch.ones(2),), 3", "targets must be a tensor"),
        ("def make():\n    x = 1\n    raise ValueError('no\\nluck')",
         r"my_model\.py:make raised ValueError: no luck, at my_model\.py:5"),
        ("def make(): return nn.Linear(-1, 'x')", r"make raised TypeError: .*, at my_model\.py:3"),
        ("import sys\ndef make(): sys.exit(4)", r"make raised SystemExit: 4, at my_model\.py:4"),
        ("def other(): pass\nnet = nn.ReLU()", r"has no 'make'\. It has other, net"),
        ("_make = 1", "has no 'make'. It has nothing that could be a problem"),
        ("def make(:", r"could not be imported: SyntaxError: .*, at my_model\.py:3"),
        ("import nosuch_module_at_all", r"ModuleNotFoundError: .*, at my_model\.py:3"),
        ("1 / 0", r"could not be imported: ZeroDivisionError: division by zero, at my_model\.py:3"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence(source: str, says: str, write: Callable[[str], str]) -> None:
    with pytest.raises(BlockframeError, match=says) as caught:
        resolve(f"{write(source)}:make", Request(), CORE)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(SpecError, match=r"there is no file nosuch\.py\. Write path/file\.py:attr"):
        resolve("nosuch.py:make", Request(), CORE)


def test_a_file_without_a_name(write: Callable[[str], str]) -> None:
    with pytest.raises(
        SpecError, match=r"names no attribute\. Write my_model\.py:NAME; it has make"
    ):
        resolve(write("def make(): pass"), Request(), CORE)


def test_a_failed_import_leaves_nothing_behind(write: Callable[[str], str]) -> None:
    import sys

    paths, modules = list(sys.path), set(sys.modules)
    with pytest.raises(SpecError):
        resolve(f"{write('1 / 0')}:make", Request(), CORE)
    assert sys.path == paths
    assert set(sys.modules) == modules


def test_weights_follow_the_seed_and_nothing_else_does(write: Callable[[str], str]) -> None:
    spec = write("def net(): return nn.Linear(2, 1), (torch.ones(3, 2),)") + ":net"
    torch.manual_seed(7)
    state = torch.get_rng_state()
    weights = [resolve(spec, Request(seed=s), CORE).module.weight for s in (1, 1, 2)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.get_rng_state(), state)


# --- targets given as objects, and what is supplied to them --------------------------------------


def net(classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(2, classes)


INPUTS = (torch.arange(8.0).reshape(4, 2),)


def test_tuples_and_problems() -> None:
    assert as_problem((net(), INPUTS), Request(), CORE).targets is None
    real = as_problem((net(), INPUTS, torch.zeros(4, 3)), Request(), CORE)
    assert (real.loss, real.spec) == ("mse", "Linear")
    assert as_problem((net(), INPUTS, torch.zeros(4).long()), Request(), CORE).loss == "ce"
    problem = Problem(net(), INPUTS, spec="mine")
    assert as_problem(problem, Request(), CORE).spec == "mine"


@pytest.mark.parametrize(
    "target", [net(), None, 7, (), (net(),), [net(), INPUTS], {"module": net()}]
)
def test_what_is_no_target(target: object) -> None:
    with pytest.raises(InputError, match=r"the target is .* Give \(module, inputs\)"):
        as_problem(target, Request(), CORE)


def test_no_settings_on_objects() -> None:
    with pytest.raises(SpecError, match="there is nothing to set width on"):
        as_problem((net(), INPUTS), Request({"width": 3}), CORE)


def test_loss() -> None:
    target = (net(), INPUTS, torch.zeros(4).long())
    assert as_problem(target, Request(loss="mse"), CORE).loss == "mse"
    with pytest.raises(InputError, match=r"there is no loss 'mes'\. Did you mean mse\?"):
        as_problem(target, Request(loss="mes"), CORE)


def test_initialization_does_not_touch_the_users_module() -> None:
    module = net()
    before = module.weight.detach().clone()
    found = as_problem((module, INPUTS), Request(init="xavier"), CORE).module
    assert torch.equal(module.weight, before)
    assert not torch.equal(found.weight, before)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("init", "says"),
    [
        ("default", ""),
        ("xavier:0.5", "weight matrices drawn at random (xavier:0.5, seed 3)"),
        ("default:2", "weight matrices times 2"),
    ],
)
def test_what_was_done_to_the_weights_is_said(init: str, says: str) -> None:
    """The seed only where it counts."""
    problem = as_problem((net(), INPUTS), Request(init=init, seed=3), CORE)
    assert problem.data == says


def test_samples() -> None:
    target = (net(), INPUTS, torch.zeros(4).long())
    problem = as_problem(target, Request(samples=3), CORE)
    assert problem.inputs[0].shape == (3, 2)
    assert problem.targets is not None
    assert problem.targets.shape == (3,)
    assert problem.data == "3 of 4 samples"
    with pytest.raises(InputError, match="5 samples asked for, 4 there are"):
        as_problem(target, Request(samples=5), CORE)


def test_data_with_classes() -> None:
    problem = as_problem((net(), INPUTS), Request(data="classes"), CORE)
    assert (problem.loss, problem.data) == ("ce", "six rows in three classes")
    assert problem.inputs[0].shape == (6, 2)
    assert problem.targets is not None
    assert problem.targets.tolist() == [0, 1, 2, 0, 1, 2]
    squared = as_problem((net(), INPUTS), Request(data="classes", loss="mse"), CORE)
    assert squared.targets is not None
    assert torch.equal(squared.targets, torch.eye(3).repeat(2, 1))
    with pytest.raises(InputError, match="has 3 classes, the model has 2 outputs"):
        as_problem((net(2), INPUTS), Request(data="classes"), CORE)


def test_data_with_numbers() -> None:
    problem = as_problem((net(1), INPUTS), Request(data="reals", samples=2), CORE)
    assert problem.data.endswith(", 2 of 6 samples")
    assert problem.loss == "mse"
    assert problem.targets is not None
    assert problem.targets.shape == (2, 1)
    assert problem.targets.dtype == problem.inputs[0].dtype


def test_data_that_does_not_fit() -> None:
    with pytest.raises(InputError, match=r"has shape \(2,\), the model's example input \(5,\)"):
        as_problem((nn.Linear(5, 1), (torch.ones(1, 5),)), Request(data="reals"), CORE)
    with pytest.raises(InputError, match="cannot replace the inputs of this model"):
        as_problem((nn.Embedding(9, 2), (torch.ones(1, 2).long(),)), Request(data="reals"), CORE)
    with pytest.raises(InputError, match="'prose' is text"):
        as_problem((net(), INPUTS), Request(data="prose"), CORE)
    with pytest.raises(InputError, match=r"there is no data .*'clases'\. Did you mean classes"):
        as_problem((net(), INPUTS), Request(data="clases"), CORE)


def test_data_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, x=np.ones((5, 2)), y=np.array([0, 1, 2, 0, 1]))
    problem = as_problem((net(), INPUTS), Request(data=str(path)), CORE)
    assert problem.inputs[0].shape == (5, 2)
    assert problem.loss == "ce"


def test_random_targets() -> None:
    real, again = (as_problem((net(), INPUTS), Request(data="random", seed=4), CORE) for _ in "ab")
    assert real.targets is not None
    assert again.targets is not None
    assert real.targets.shape == (4, 3)
    assert torch.equal(real.targets, again.targets)
    classes = as_problem((net(), INPUTS), Request(data="random", loss="ce", seed=4), CORE)
    assert classes.targets is not None
    assert classes.targets.shape == (4,)
    assert set(classes.targets.tolist()) <= {0, 1, 2}


def test_random_targets_leave_the_module_as_it_was() -> None:
    module = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1)).train()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    as_problem((module, INPUTS), Request(data="random"), CORE)
    assert module.training
    assert module[0].training
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


def test_a_forward_that_raises() -> None:
    with pytest.raises(InputError, match=r"does not run on inputs of shape \(4, 2\)"):
        as_problem((nn.Linear(7, 1), INPUTS), Request(data="random"), CORE)


def test_a_proxy_gets_what_is_supplied() -> None:
    module = nn.Linear(200, 300, device="meta")
    full = Problem(module, (torch.ones(1, 200),), proxy=Problem(net(), INPUTS))
    problem = as_problem(full, Request(data="classes"), CORE)
    assert problem.proxy is not None
    assert problem.proxy.data == "six rows in three classes"
    assert problem.loss == "ce"
    assert problem.inputs[0].shape == (1, 200)
