"""What ``blockframe lr`` shows: learning rates measured, stable and guaranteed, as text or as JSON.

A bound is rounded to its safe side wherever it is shown: a rate down, a norm up.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from decimal import ROUND_FLOOR, Context
from typing import Any

from attrs import frozen

from blockframe.contract.claim import Finding
from blockframe.report import Page
from blockframe.report.findings import write_folded
from blockframe.report.sheet import Sheet
from blockframe.report.terminal import headline
from blockframe.report.words import number
from blockframe.scaling.rates import Dominant, Guarantee, LearningRates
from blockframe.scaling.stable import LEVELS, Bracket, Start, quantiles

_ASTRONOMIC = -12.0
"""Powers of ten below which a rate is of no use to anyone who trains."""
_SHOWN = 5
"""Starts that are named for one reason."""


@frozen
class RatesReport:
    """One page about `LearningRates`."""

    rates: LearningRates

    def text(self, page: Page) -> str:
        rates, sheet = self.rates, Sheet(page)
        subject, bound = rates.subject, rates.guarantee
        sheet.line(headline(subject))
        if subject.proxy:
            sheet.labelled("proxy", f"{subject.proxy}; every number below is about it")
        data = [subject.data, f"loss {subject.loss}", f"|θ₀| = {number(rates.norm)}"]
        sheet.labelled("data", " · ".join(filter(None, data)))
        sheet.blank()
        rate = rates.measured.rate
        rows = [
            ("measured", "–" if rate is None else number(rate), self._measured()),
            *self._stable(),
            ("guaranteed", power_of_ten(bound.log10_rate, up=False), self._guaranteed()),
        ]
        sheet.table(rows, ("", "learning rate", "from"), wrap=(2,))
        sheet.blank()
        if len(rates.starts) > 1:
            self._over_starts(sheet)
            sheet.blank()
        if rates.ended:
            sheet.line(f"Not all starts were looked at: {rates.ended}.")
            sheet.blank()
        for line in self._explained():
            sheet.line(line)
        write_folded(sheet, bound.findings)
        return sheet.text()

    def json(self) -> str:
        """The document of docs/cli."""
        rates, m = self.rates, self.rates.measured
        subject = rates.subject
        document = {
            "subject": {
                "spec": subject.spec,
                "class": subject.class_name,
                "parameters": subject.parameters,
                "scale": "proxy" if subject.proxy else "full",
                "data": subject.data,
                "loss": subject.loss,
                "norm": _finite(rates.norm),
            },
            "measured": {
                "lr": m.rate,
                "sharpness": m.sharpness,
                "residual": m.residual,
                "products": m.products,
                "converged": m.converged,
                "why_not": m.why_not or None,
            },
            "guaranteed": {
                "log10_lr": rates.guarantee.log10_rate,
                "centre": "start" if rates.guarantee.region.about_start else "zero",
                "radius": _finite(rates.guarantee.region.radius),
                "declared": rates.guarantee.declared,
                "why_not": rates.guarantee.why_not or None,
                "findings": [_finding(f) for f in rates.guarantee.findings],
                **_bound(rates.guarantee),
            },
            "bound_at_start": _bound(rates.at_start),
            "stable": self._found(rates.starts[0]) if rates.starts else None,
            "starts": self._starts() if len(rates.starts) > 1 or rates.ended else None,
        }
        return json.dumps(document, indent=2, allow_nan=False) + "\n"

    def _measured(self) -> str:
        m = self.rates.measured
        if m.sharpness is None or m.residual is None:
            return m.why_not
        text = f"λ = {number(m.sharpness)} ± {number(m.residual)} at θ₀"
        text += f" (Lanczos, {m.products} products{'' if m.converged else ', not converged'})"
        return text + ("; 2/λ" if m.rate is not None else ": it bounds no step")

    def _stable(self) -> list[tuple[str, str, str]]:
        """The rows of the brackets."""
        rates, search = self.rates, self.rates.search
        stable = rates.starts[0].stable if rates.starts else None
        if search is None:
            return []
        if stable is None:
            return [("stable", "–", "no run begins where a number is not finite")]
        rows = []
        for name, meaning, bracket in (
            ("stable", f"L after {search.steps} steps <= L at θ₀", stable.trains),
            ("monotone", f"no step of {search.steps} raises L", stable.falls),
        ):
            text = f"{meaning}; {_run_at(bracket)}"
            if bracket.below is not None and rates.measured.rate is not None:
                text += f"; {number(bracket.below / rates.measured.rate)} × the measured"
            rows.append((name, number(bracket.below), text))
        if stable.unstable_below:
            name, shown, text = rows[0]
            text += f"; but unstable at {', '.join(map(number, stable.unstable_below))}"
            rows[0] = name, shown, text
        return rows

    def _over_starts(self, sheet: Sheet) -> None:
        """Quantiles, and how many starts are degenerate."""
        starts = self.rates.starts
        sheet.line(f"Over {len(starts)} starts, seeds {starts[0].seed} to {starts[-1].seed}:")
        rows = [
            (_of(name, values), *(number(q) for q in found))
            for name, values in _columns(self.rates).items()
            if (found := quantiles(values)) is not None
        ]
        if rows:
            sheet.table(
                rows, ("", "least", "quarter", "median", "3 quarters", "largest"), right=range(1, 6)
            )
        bad = [(s.seed, s.degenerate) for s in starts if s.degenerate]
        sheet.line(
            f"Degenerate starts (gradient 0 or not finite, or fewer parameters than outputs): "
            f"{len(bad)} of {len(starts)}."
        )
        _write_first(sheet, bad)
        looked = sum(s.rank for s in starts)
        if not looked:
            return
        hidden = [(s.seed, s.undecided) for s in starts if s.undecided]
        full = sum(s.rank and not s.degenerate and not s.undecided for s in starts)
        sheet.line(
            f"DF seen to have full rank: at {full} of {looked} starts where the rank was looked at"
            + (f"; at {len(hidden)} rounding hides it:" if hidden else ".")
        )
        _write_first(sheet, hidden)

    def _found(self, start: Start) -> dict[str, Any] | None:
        """The brackets of one start."""
        search, stable = self.rates.search, start.stable
        if search is None:
            return None
        found: dict[str, Any] = {"steps": search.steps, "width": search.width}
        if stable is None:
            return found | {"runs": 0, "trains": None, "falls": None, "unstable_below": []}
        return found | {
            "runs": stable.runs,
            "trains": self._bracket(start, stable.trains),
            "falls": self._bracket(start, stable.falls),
            "unstable_below": list(stable.unstable_below),
        }

    def _bracket(self, start: Start, bracket: Bracket) -> dict[str, Any]:
        guaranteed, below = self.rates.guarantee.log10_rate, bracket.below
        # the bound is that of the first start
        bounded = guaranteed is not None and start is self.rates.starts[0]
        rate = start.measured.rate
        return {
            "below": below,
            "above": bracket.above,
            "why": bracket.why or None,
            "to_measured": None if below is None or rate is None else below / rate,
            "log10_to_guaranteed": math.log10(below) - guaranteed
            if below is not None and guaranteed is not None and bounded
            else None,
        }

    def _starts(self) -> dict[str, Any]:
        starts = self.rates.starts
        quantile = {name: quantiles(v) for name, v in _columns(self.rates, plain=True).items()}
        return {
            "seeds": [s.seed for s in starts],
            "ended": self.rates.ended or None,
            "degenerate": sum(bool(s.degenerate) for s in starts),
            "rank_looked_at": sum(s.rank for s in starts),
            "rank_undecided": sum(bool(s.undecided) for s in starts),
            "levels": list(LEVELS),
            "quantiles": {n: None if q is None else list(q) for n, q in quantile.items()},
            "each": [
                {
                    "seed": s.seed,
                    "sharpness": s.measured.sharpness,
                    "lr": s.measured.rate,
                    "degenerate": s.degenerate or None,
                    "undecided": s.undecided or None,
                    "stable": self._found(s),
                }
                for s in starts
            ],
        }

    def _guaranteed(self) -> str:
        rates, g = self.rates, self.rates.guarantee
        if g.log10_rate is None:
            return g.why_not or "no bound of the Hessian" + (", see below" if g.findings else "")
        distance = "|θ − θ₀|" if g.region.about_start else "|θ|"
        where = f"{distance} <= {_down(g.region.radius)}"
        if rates.norm:
            where += f" = {number(g.region.radius / rates.norm)} |θ₀|"
        word = " (a plugin's word is part of it)" if g.declared else ""
        return f"‖∇²L‖ <= Λ = {power_of_ten(g.bound.log10, up=True)} for all {where}; 2/Λ{word}"

    def _explained(self) -> list[str]:
        """What the two mean, why they differ, and where the difference comes from."""
        rates, bound = self.rates, self.rates.guarantee
        if bound.log10_rate is None:
            return ["No rate is guaranteed. The measured one is about θ₀ only.", *self._borne()]
        cautious = "astronomically cautious here" if bound.log10_rate < _ASTRONOMIC else "cautious"
        lines = [
            f"Below the guaranteed rate every step within that ball descends: proved, {cautious}. "
            "The measured rate is about θ₀ only: above it, gradient descent on the quadratic model "
            "there leaves the minimum along the eigenvector of λ. The network itself may still "
            "descend above it, and below it nothing is promised."
        ]
        lines += self._borne()
        if math.isfinite(rates.at_start.bound.log):
            lines.append(self._looseness())
        if bound.dominant is not None:
            lines.append(_dominated(bound.dominant))
        return lines

    def _borne(self) -> list[str]:
        """What the brackets mean."""
        rates = self.rates
        stable = rates.starts[0].stable if rates.starts else None
        if stable is None or rates.search is None:
            return []
        text = (
            f"The stable and the monotone rate are of {stable.runs} runs of {rates.search.steps} "
            "steps; between rates that were run, and beyond, nothing is known."
        )
        bound = rates.guarantee.log10_rate
        if stable.trains.below is not None and bound is not None:
            excess = math.log10(stable.trains.below) - bound
            text += f" The stable one is {_powers(excess)} above the guaranteed."
        return [text]

    def _looseness(self) -> str:
        """The bound at the start beside the measured sharpness."""
        rates = self.rates
        at_start = rates.at_start.bound.log10
        text = f"How loose the bound is: at θ₀ alone it says λ <= {power_of_ten(at_start, up=True)}"
        if rates.measured.rate is not None and rates.measured.sharpness:
            excess = at_start - math.log10(rates.measured.sharpness)
            text += f", {_powers(excess)} too much"
        more = rates.guarantee.bound.log10 - at_start
        text += f"; the ball adds {_powers(more)}"
        hint = more > 3 and not rates.guarantee.region.about_start
        return text + (" (less: --centre start --radius 0.01)." if hint else ".")


def _of(name: str, values: Sequence[float | None]) -> str:
    """The name of a row, with how many starts have the number if not all have."""
    there = sum(v is not None for v in values)
    return name if there == len(values) else f"{name} (of {there})"


def _write_first(sheet: Sheet, starts: Sequence[tuple[int, str]]) -> None:
    """The seeds of the first ones, and why."""
    for seed, why in starts[:_SHOWN]:
        sheet.line(f"seed {seed}: {why}", indent=2)
    if len(starts) > _SHOWN:
        sheet.line(f"and {len(starts) - _SHOWN} more", indent=2)


def _run_at(bracket: Bracket) -> str:
    """Which rates were run, and what happened: ``stable at 1, at 1.02 step 3 raised the loss``."""
    if bracket.below is None:
        return f"none found, down to {number(bracket.above)}: {bracket.why}"
    if bracket.above is None:
        return f"still stable at {number(bracket.below)}, the largest that was run"
    return f"stable at {number(bracket.below)}, not at {number(bracket.above)}: {bracket.why}"


def _columns(rates: LearningRates, *, plain: bool = False) -> dict[str, list[float | None]]:
    """What is different from start to start, by name: that of the page, or that of JSON."""

    def below(start: Start, name: str) -> float | None:
        bracket: Bracket | None = getattr(start.stable, name, None)
        return None if bracket is None else bracket.below

    def share(start: Start) -> float | None:
        rate, found = start.measured.rate, below(start, "trains")
        return None if rate is None or found is None else found / rate

    columns = {
        ("λ at θ₀", "sharpness"): [s.measured.sharpness for s in rates.starts],
        ("measured", "lr"): [s.measured.rate for s in rates.starts],
    }
    if rates.search is not None:
        columns |= {
            ("stable", "trains"): [below(s, "trains") for s in rates.starts],
            ("monotone", "falls"): [below(s, "falls") for s in rates.starts],
            ("stable/measured", "trains_to_measured"): [share(s) for s in rates.starts],
        }
    return {names[plain]: values for names, values in columns.items()}


def _powers(count: float) -> str:
    return f"{count:.0f} powers of ten" if count >= 1.5 else f"a factor {number(10.0**count)}"


def _dominated(d: Dominant) -> str:
    where = f" in {d.module}" if d.module and d.module != d.block else ""
    line = f" ({d.location})" if d.location else ""
    factor = power_of_ten(d.factor.log10, up=True)
    return (
        f"The largest factor in it, {factor}, is that of block {d.block}, most of it from "
        f"{d.op}{where}{line}."
    )


def power_of_ten(exponent: float | None, *, up: bool) -> str:
    """10^exponent as ``0.001069`` or ``10^-41.3``, its last digit rounded up, or down."""
    if exponent is None or not math.isfinite(exponent):
        return "–"
    shift = 1e-9 if up else -1e-9  # more than what the powers here are rounded by
    if abs(exponent) < 5:
        digits = 10.0 ** (3 - math.floor(exponent))
        scaled = 10.0**exponent * digits * (1.0 + shift)
        value = (math.ceil(scaled) if up else math.floor(scaled)) / digits
        return number(value) if value >= 1 else f"{value:.4g}"  # `number` has fewer digits there
    tenths = 10.0 * exponent + shift
    return f"10^{(math.ceil(tenths) if up else math.floor(tenths)) / 10:.1f}"


def _down(x: float) -> str:
    """Four digits, the last one rounded down."""
    return f"{float(Context(prec=4, rounding=ROUND_FLOOR).create_decimal(x)):.4g}"


def _bound(g: Guarantee) -> dict[str, Any]:
    d = g.dominant
    return {
        "log10_hessian_bound": _finite(g.bound.log10),
        "dominant": None
        if d is None
        else {
            "block": d.block,
            "log10_factor": d.factor.log10,
            "op": d.op,
            "module": d.module,
            "location": d.location,
        },
    }


def _finding(f: Finding) -> dict[str, Any]:
    keys = ("code", "message", "op", "module", "location", "help")
    return {key: getattr(f, key) for key in keys}


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None
