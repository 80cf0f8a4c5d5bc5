"""The largest Hessian eigenvalue at one iterate after the other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from attrs import asdict, evolve, field, frozen
from torch import Tensor

from blockframe.dynamics.curvature import (
    Accuracy,
    Eigenpair,
    Found,
    Product,
    random_start,
    top_eigenpair,
)

COLD_EVERY = 10
"""Iterates after which a random vector is searched from again."""
WATCH_EVERY = 4
"""Iterates after which the second eigenvalue is looked at again."""

_CLOSE = 0.02  # relative gap below which the second eigenvalue is looked at each time
_FALL = 0.2  # relative fall of the eigenvalue between iterates that looks off
_SAME = 0.5  # |cosine| below which two vectors are taken to belong to different eigenvalues
_MIXED = 0.05  # share of a random vector in the start for the second eigenvalue


@frozen
class Trail:
    """What the searches at the last iterates found, of one end of the spectrum.

    Attributes:
        vector, previous: (P,), the last two eigenvectors, signs aligned.
        rival: (P,), for the second eigenvalue.
        value: the last eigenvalue.
        second: what the second eigenvalue was not above when it was last looked at; None if not.
        change: |difference| of the last two eigenvalues; None after the first.
        along: α, so that the next vector is expected at vector + α(vector − previous).
        drift: how far the second eigenvalue moves from iterate to iterate, as far as was seen.
        age: iterates since the second eigenvalue was looked at.
        cold_age: iterates since a random vector was searched from.
    """

    vector: Tensor = field(eq=False, repr=False)
    previous: Tensor | None = field(default=None, eq=False, repr=False)
    rival: Tensor | None = field(default=None, eq=False, repr=False)
    value: float = 0.0
    second: float | None = None
    change: float | None = None
    along: float = 1.0
    drift: float = 0.0
    age: int = field(default=0, converter=int)
    cold_age: int = field(default=0, converter=int)

    @property
    def expected(self) -> Tensor:
        """(P,): where the next eigenvector is expected."""
        if self.previous is None:
            return self.vector
        return self.vector + self.along * (self.vector - self.previous)

    @property
    def watch(self) -> bool:
        """Whether the second eigenvalue may have come close to the first, or passed it."""
        if self.second is None or self.change is None or self.age + 1 >= WATCH_EVERY:
            return True
        moved = (self.age + 1) * max(self.change, self.drift)
        return self.value - self.second - 2 * moved < _CLOSE * abs(self.value)

    def bound(self, value: float) -> float:
        """What the second eigenvalue is now not expected to be above, the first being ``value``."""
        if self.second is None or self.change is None:
            return value
        moved = max(abs(value - self.value), self.change, self.drift)
        return self.second + (self.age + 1) * moved

    def after(self, found: Found, *, watched: bool) -> Trail:
        """With what was found at the next iterate."""
        pair, cosine = found.pair, float(torch.dot(found.ahead, self.vector))
        vector = found.ahead if cosine >= 0 else -found.ahead
        trail = evolve(
            self, vector=vector, value=pair.value, change=abs(pair.value - self.value),
            age=self.age + 1, cold_age=0 if pair.cold else self.cold_age + 1,
        )  # fmt: skip
        if abs(cosine) < _SAME:  # another eigenvalue is the largest now; this one is the rival
            trail = evolve(
                trail, previous=None, along=1.0, rival=self.vector, second=self.value, age=0
            )
        else:
            trail = evolve(trail, previous=self.vector, along=self._along(vector))
        if watched and found.second is not None:
            drift = self.drift / 2  # what is known of it is no difference of exact values
            if self.second is not None and abs(cosine) >= _SAME:
                drift = max(drift, abs(found.second - self.second) / (self.age + 1))
            trail = evolve(trail, rival=found.rival, second=found.second, drift=drift, age=0)
        return trail

    def _along(self, vector: Tensor) -> float:
        """How far along the last change the one to ``vector`` went: −1 where they swing."""
        if self.previous is None:
            return 1.0
        step, last = vector - self.vector, self.vector - self.previous
        square = float(last @ last)
        return max(-1.0, min(1.0, float(step @ last) / square)) if square > 0 else 0.0


@frozen
class Trails:
    """Of both ends of the spectrum: all that the searches at the next iterates go on from.

    `tensors` and `numbers` hold all of it, and `restored` makes it of them again.
    """

    top: Trail | None = None
    bottom: Trail | None = None

    _ENDS: ClassVar = ("top", "bottom")

    def tensors(self) -> dict[str, Tensor]:
        """``END.NAME`` → (P,), in the dtype that the network is evaluated in."""
        return {name: x for name, x in self._entries() if isinstance(x, Tensor)}

    def numbers(self) -> dict[str, float]:
        """``END.NAME`` → what else there is, finite numbers."""
        return {name: x for name, x in self._entries() if isinstance(x, float | int)}

    def _entries(self) -> list[tuple[str, Tensor | float | None]]:
        trails = ((end, getattr(self, end)) for end in self._ENDS)
        return [
            (f"{end}.{name}", value)
            for end, trail in trails
            if trail is not None
            for name, value in asdict(trail, recurse=False).items()
        ]

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor], numbers: Mapping[str, float]) -> Trails:
        """What `tensors` and `numbers` were taken of; the tensors may be on another device."""
        kept: dict[str, dict[str, Any]] = {}
        for name, value in {**tensors, **numbers}.items():
            end, _, attribute = name.partition(".")
            kept.setdefault(end, {})[attribute] = value
        return cls(**{end: Trail(**attributes) for end, attributes in kept.items()})


def follow(
    product: Product,
    trail: Trail | None,
    like: Tensor,
    accuracy: Accuracy,
    *,
    seed: int,
    suspicious: bool = False,
    basis: int | None = None,
) -> tuple[Eigenpair, Trail | None]:
    """The largest algebraic eigenvalue at the next iterate, and the trail that goes on from it.

    The search starts from the eigenvector that the last two lead to expect. The second eigenvalue
    is followed too, and looked at where it may have passed the first. A random vector is searched
    from (a *cold* search): at the first iterate, after `COLD_EVERY` others, and whenever something
    looks off: the eigenvalue fell sharply, or so far that the second, which was not looked at, may
    be above it; the accuracy was not reached; or the caller is ``suspicious``.

    Args:
        product: v ↦ H v for vectors (P,), H symmetric.
        trail: from the iterate before; None at the first.
        like: (P,), of the dtype and on the device that the vectors are to have.
        seed: of the random vectors.
        basis: the most vectors that are held at a time, as of `top_eigenpair`.
    """
    if trail is None:
        return _begun(top_eigenpair(product, [random_start(like, seed)], accuracy, basis=basis))
    expected, rival, used = trail.expected, trail.rival, 0
    cold = suspicious or trail.cold_age + 1 >= COLD_EVERY
    if not cold:
        watched = rival is not None and trail.watch
        starts = [expected]
        if rival is not None and watched:
            starts.append(torch.add(rival, random_start(like, seed), alpha=_MIXED))
        found = top_eigenpair(
            product, starts, accuracy, cold=False, second=None if watched else trail.bound,
            basis=basis,
        )  # fmt: skip
        pair = found.pair
        off = pair.value < trail.value - _FALL * abs(trail.value) or not pair.converged
        passed = not watched and trail.bound(pair.value) >= pair.value
        if not (off or passed):
            return pair, trail.after(found, watched=watched)
        expected, used = found.ahead, pair.products
    starts = [expected, random_start(like, seed)]
    found = top_eigenpair(product, starts, accuracy, basis=basis)
    pair = evolve(found.pair, products=found.pair.products + used)
    if not math.isfinite(pair.value):
        return pair, None
    return pair, trail.after(evolve(found, pair=pair), watched=True)


def _begun(found: Found) -> tuple[Eigenpair, Trail | None]:
    pair = found.pair
    if not math.isfinite(pair.value):
        return pair, None
    return pair, Trail(found.ahead, rival=found.rival, value=pair.value, second=found.second)
