"""Discovery of plugins, and the registry of what they contribute.

Every plugin is loaded and called on its own, in a plugin manager of its own, so that a broken one
is known by name and takes nothing else with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from typing import TYPE_CHECKING, Any, TypeVar

import pluggy
from attrs import define, field, frozen

from blockframe import hookspecs
from blockframe.errors import PluginError
from blockframe.foreign import foreign
from blockframe.naming import lookup

if TYPE_CHECKING:
    from blockframe.atoms.facts import Atom
    from blockframe.blocks import BlockChain
    from blockframe.contract.clause import Clause
    from blockframe.data import Dataset
    from blockframe.dynamics.losses import Loss
    from blockframe.dynamics.probes import Probe
    from blockframe.problem import Problem, Request
    from blockframe.report import Renderer

T = TypeVar("T")

GROUP = "blockframe"
"""The entry point group under which distributions declare plugins."""

STRICT = "BLOCKFRAME_STRICT_PLUGINS"
"""Set to 1, this environment variable makes a broken plugin an error."""

CORE = "core"
"""Name of the plugin that holds the core's own contributions."""

DISTRIBUTION = "blockframe-certify"


@frozen
class PluginInfo:
    """One line of ``blockframe plugins list``.

    Attributes:
        name: of the entry point; ``name:spec`` asks this plugin alone.
        hooks: names of the hooks that it implements, without their prefix.
        state: "loaded" or "broken".
        error: why it is broken.
    """

    name: str
    distribution: str
    version: str
    hooks: tuple[str, ...] = ()
    state: str = "loaded"
    error: str = ""

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"

    @property
    def warning(self) -> str:
        """What to tell the user about a broken plugin."""
        return f"plugin {self} could not be loaded ({self.error}); continuing without it."


@frozen(eq=False)
class Plugin:
    """A loaded plugin: what is known about it, and its hooks."""

    info: PluginInfo
    manager: pluggy.PluginManager

    def call(self, hook: str, **arguments: Any) -> list[Any]:
        """What the plugin's implementations of ``hook`` return, without None.

        Raises:
            PluginError: the hook raised; it names the plugin and the hook.
        """
        with foreign(lambda what: PluginError(f"{hook} of plugin {self.info} failed: {what}")):
            results: list[Any] = getattr(self.manager.hook, hook)(**arguments)
            return [r for r in results if r is not None]

    def contributions(self, hook: str, check: Callable[[Any], bool]) -> list[Any]:
        """The items of the lists that ``hook`` returns.

        Raises:
            PluginError: the hook raised, or returned something else than a list of its kind.
        """
        with foreign(lambda what: PluginError(f"{hook} of plugin {self.info} failed: {what}")):
            items = [item for items in self.call(hook) for item in items]
        for item in items:
            if not check(item):
                raise PluginError(
                    f"{hook} of plugin {self.info} returned {item!r}",
                    f"See {hook} in blockframe/hookspecs.py for what belongs there.",
                )
        return items

    def specs(self) -> list[str]:
        """Names that the plugin resolves."""
        return sorted(self.contributions("blockframe_specs", lambda s: isinstance(s, str)))


@define(eq=False)
class Registry:
    """What all plugins contribute. Made once by `load_plugins` and passed around.

    Contributions are asked for when they are first wanted, and checked then: two of one name are
    an error that names both plugins.
    """

    plugins: list[PluginInfo] = field(factory=list)
    loaded: list[Plugin] = field(factory=list)
    _asked: dict[str, dict[str, Any]] = field(factory=dict, init=False)

    def add(self, name: str, plugin: Any) -> None:
        """Use ``plugin``, a module or object with hooks, as if it were installed as ``name``.

        Raises:
            PluginError: it cannot be used, or something was asked of the registry already.
        """
        if self._asked:
            raise PluginError(
                f"plugin {name} comes too late", "Add plugins before anything is asked."
            )
        _add(self, name, "not installed", "?", lambda: plugin)
        if self.plugins[-1].error:
            raise PluginError(f"plugin {name} cannot be used ({self.plugins.pop().error})")

    def specs(self) -> list[str]:
        """Names that some plugin resolves, for listings and suggestions."""
        return sorted({spec for plugin in self.loaded for spec in plugin.specs()})

    def resolve(self, spec: str, request: Request) -> Problem:
        """The problem that ``spec`` names (`blockframe.resolve.resolve`)."""
        from blockframe.resolve import resolve

        return resolve(spec, request, self)

    def chain(self, problem: Problem, chain: BlockChain) -> BlockChain:
        """``chain`` as the plugins, in the order of their names, want it cut."""
        for plugin in self.loaded:
            for changed in plugin.call("blockframe_chain", problem=problem, chain=chain):
                chain = changed
        return chain

    def atoms(self) -> list[Atom]:
        """Records for ops beyond the core's catalogue."""
        from blockframe.atoms.facts import Atom

        found = self._collect(
            "blockframe_atoms", "record of op", lambda a: isinstance(a, Atom), lambda a: a.ops
        )
        return list(dict.fromkeys(found.values()))

    def clauses(self) -> list[Clause]:
        """Deciders of clauses, the core's first."""
        return list(self._named("blockframe_clauses", "clause", "decide").values())

    def probes(self) -> dict[str, type[Probe]]:
        """Probes by name."""
        return self._named("blockframe_probes", "probe", "observe")

    def losses(self) -> dict[str, Loss]:
        """Losses by name."""
        return self._named("blockframe_losses", "loss")

    def datasets(self) -> dict[str, Dataset]:
        """Data sets by name."""
        return self._named("blockframe_datasets", "data set", "load")

    def renderers(self) -> dict[str, Renderer]:
        """Forms of the report by name."""
        return self._named("blockframe_renderers", "format", "render")

    def renderer(self, name: str) -> Renderer:
        """The form of the report called ``name``.

        Raises:
            InputError: there is none.
        """
        return lookup("format", name, self.renderers())

    def _named(self, hook: str, kind: str, *methods: str) -> dict[str, Any]:
        """Contributions that carry a ``name`` and the methods of their kind."""

        def check(item: Any) -> bool:
            named = isinstance(getattr(item, "name", None), str)
            return named and all(callable(getattr(item, m, None)) for m in methods)

        return self._collect(hook, kind, check, lambda item: (item.name,))

    def _collect(
        self,
        hook: str,
        kind: str,
        check: Callable[[Any], bool],
        names: Callable[[Any], Iterable[str]],
    ) -> dict[str, Any]:
        if hook not in self._asked:
            owners: dict[str, PluginInfo] = {}
            found: dict[str, Any] = {}
            for plugin in self.loaded:
                for item in plugin.contributions(hook, check):
                    for name in names(item):
                        if name in owners:
                            raise PluginError(
                                f"two plugins give the {kind} {name!r}: "
                                f"{owners[name]} and {plugin.info}",
                                "Uninstall one of them.",
                            )
                        owners[name], found[name] = plugin.info, item
            self._asked[hook] = found
        return self._asked[hook]


def load_plugins(strict: bool | None = None) -> Registry:
    """Load the core's contributions and every installed plugin.

    A plugin that cannot be loaded, implements a hook that does not exist, or declares arguments
    that its hook does not have, is listed as broken and left out.

    Args:
        strict: a broken plugin is an error; None: if the environment sets `STRICT` to 1.

    Raises:
        PluginError: a plugin is broken, and ``strict``.
    """
    if strict is None:
        strict = os.environ.get(STRICT, "") not in ("", "0")
    registry = Registry()
    _add(registry, CORE, DISTRIBUTION, core_version(), _core)
    for entry in sorted(entry_points(group=GROUP), key=_order):
        distribution, release = _origin(entry)
        _add(registry, entry.name, distribution, release, entry.load)
        if strict and registry.plugins[-1].error:
            broken = registry.plugins[-1]
            raise PluginError(
                f"plugin {broken} could not be loaded ({broken.error})",
                f"Repair or uninstall it, or unset {STRICT}.",
            )
    return registry


def _core() -> Any:
    from blockframe import builtin

    return builtin


def _add(
    registry: Registry, name: str, distribution: str, release: str, load: Callable[[], Any]
) -> None:
    """Load one plugin into the registry, as loaded or as broken."""
    try:
        for other in registry.plugins:
            if other.name == name:
                raise PluginError(f"the name {name!r} is taken by {other}")
        with foreign(PluginError):
            manager = _manager(load(), name)
    except PluginError as error:
        broken = PluginInfo(
            name, distribution, release, state="broken", error=str(error).rstrip(".")
        )
        registry.plugins.append(broken)
        return
    hooks = sorted(
        caller.name.removeprefix("blockframe_")
        for caller in manager.get_hookcallers(manager.get_plugin(name)) or ()
    )
    info = PluginInfo(name, distribution, release, tuple(hooks))
    registry.plugins.append(info)
    registry.loaded.append(Plugin(info, manager))


def _manager(plugin: Any, name: str) -> pluggy.PluginManager:
    """A manager that holds this one plugin, its hooks checked against the specifications."""
    manager = pluggy.PluginManager("blockframe")
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(plugin, name)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(" ".join(str(error).split())) from error
    if not manager.get_hookcallers(plugin):
        raise PluginError("it implements no hook: mark its functions with @blockframe.hookimpl")
    return manager


def _order(entry: EntryPoint) -> tuple[str, str]:
    return entry.name, _origin(entry)[0]


def _origin(entry: EntryPoint) -> tuple[str, str]:
    """Name and version of the distribution that declares an entry point."""
    if entry.dist is None:
        return entry.module, "?"
    return entry.dist.name, entry.dist.version


def core_version() -> str:
    """The installed version of blockframe."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "?"
