"""The checker: what it accepts, and that it accepts nothing that is false."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve, frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import blockframe
from blockframe.certificate.checker import CheckReport, check
from blockframe.certificate.model import Certificate, Evidence, Outcome, Verdict
from blockframe.errors import CertificateError
from blockframe.plugins import Registry

CERTIFICATES = ("tanh", "relu", "diverged", "ruled", "ranked")
WITHIN: dict[str, tuple[str, ...]] = {
    "tanh": (),
    "relu": ("analyticity", "smoothness", "descent"),
    "diverged": ("trajectory", "descent", "dissipativity"),
    "ruled": ("trajectory", "descent"),
    "ranked": ("nondegeneracy",),
}
"""Where each is changed: everywhere, or where it says what the first does not."""

WORDS = {
    r"claims\..*\.(statement|region)": "prose",
    r"claims\..*\.findings\.\*\.(message|op|module|location|excerpt|help)": "prose, places",
    r"claims\..*\.findings": "a finding twice",
    r"trust(\.\*)?": "prose: what a reader has to trust",
    r"subject\.(spec|class|blocks\.\*\.role)": "names",
    r"environment\.(blockframe|python|torch|transformers|platform)": "what it was made with",
    r"claims\.dissipativity\.chain\.numbers\.head(\.\w+)?": "which parameters are the head",
    r"claims\.nondegeneracy\.chain\.numbers\.(point|gradient descent)": "prose",
    r"claims\.nondegeneracy\.block\.numbers\.zero(\.\*)?": "which parameters are 0",
}
"""Places where words stand that no number contradicts."""

MEASURED = {
    r"subject\.parameters": "how large the network is; there can be parameters of no block",
    r"subject\.blocks\.\*\.state(\.\*)*": "shapes of states",
    r"subject\.blocks\.\*\.residual(\.branches)?": "how many branches a block has, if any",
    r"subject\.replay_exact": "whether chain and model agree bit for bit",
    r"subject\.digests\.\w+": "of data and start, which are not in the certificate",
    r"subject\.recipe(\.(spec|data|full|samples))?": "what was asked for",
    r"trajectory\.series\.sharpness\.residual\.\*": "errors of sharpnesses that are not the worst",
    r"trajectory\.series\.output_pairing\.size\.\*": "of what rounding may do",
    r"trajectory\.series\.gradient_lipschitz\.\*": "how fast the gradient turns, below a bound",
    r"trajectory\.series\.tangent(\.(error|change|effective_rank))?\.\*": "of a Gram matrix",
    r"trajectory\.series\.tangent_bound(\.(residual|rounding))?\.\*": "of a Gram matrix",
    r"trajectory\.series\.block_jacobian\..+\.(\*|bound)": "singular values; no branch, no bound",
    r"trajectory\.series\.kinks\.approach\.\*": "part of a way to a kink, either way",
    r"trajectory\.series\.bottom_eigenvalue(\.residual)?\.\*": "an eigenvalue below another",
    r"trajectory\.series\.segment_curvature(\.(mean|sharpness|residual))?\.\*":
        "curvatures between iterates",
    r"trajectory\.series\.spectral_density\.\w+\.\*": "of many eigenvalues",
    r"trajectory\.summary\.minimizer(\.(loss|nullity|gap))?": "at a point that is not there",
    r"claims\.smoothness\.block\.numbers\.(value|first derivative|second derivative|branch)":
        "coefficients",
    r"claims\.analyticity\.block\.findings\.\*\.witness\.(t|line|entry|order|spread)":
        "where it was found",
    r"claims\.nondegeneracy\.chain\.numbers\.(residual|least singular value)":
        "bounds that smaller ones imply",
    r"claims\.nondegeneracy\.chain\.numbers\.matrix\.(radius|file)": "how far it reaches",
}  # fmt: skip
"""Measured, or read off the network: another number contradicts none in the certificate.

A replay, or a longer look than a hundredth of a number, would tell.
"""
LESS = {
    r"trajectory\.summary\.rounding_units": "more room for rounding, which decides nothing else",
    r"claims\.\w+\.\w+\.evidence": "evidence that is weaker than there is",
    r"claims\.nondegeneracy\.block": "a block that need not be named",
    r"claims\.nondegeneracy\.block\.clause": "another clause, of a plugin: said not to be known",
}
"""The certificate then asserts less than it could."""
UNCHECKED = {**WORDS, **MEASURED, **LESS}


def read(document: dict[str, Any]) -> Certificate:
    return Certificate.from_json(json.dumps(document))


def reasons(report: CheckReport) -> list[str]:
    return [str(c) for c in report.rejected]


@pytest.fixture(params=CERTIFICATES)
def document(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = request.getfixturevalue(request.param)
    return found


def test_what_the_program_makes_stands(document: dict[str, Any]) -> None:
    certificate = read(document)
    report = check(certificate)
    assert reasons(report) == []
    assert report.stands
    assert report.verdict is certificate.verdict
    assert any("seal" in line for line in report.verified)
    assert any("inequalities" in line for line in report.verified)
    assert any("--replay" in line for line in report.unverifiable)


def test_the_certificates_are_of_every_kind(
    tanh: dict[str, Any], relu: dict[str, Any], diverged: dict[str, Any]
) -> None:
    assert read(tanh).claim("descent").verdict == "HOLDS"
    assert read(tanh).claim("dissipativity").verdict == "HOLDS"
    assert read(relu).claim("analyticity").verdict == "FAILS"
    assert read(relu).claim("smoothness").verdict == "UNKNOWN"
    assert [f.code for f in read(relu).claim("descent").findings] == ["D401"]
    assert "D402" in [f.code for f in read(diverged).claim("descent").findings]


def test_the_public_name() -> None:
    assert blockframe.check is check


# --- mutations ----------------------------------------------------------------------------------


Place = tuple[str | int, ...]
ENUMS: dict[str, list[Any]] = {
    "verdict": [*map(str, Verdict)],
    "evidence": [None, *map(str, Evidence)],
    "holds": [True, False, None],
}


@frozen
class Mutation:
    """One change.

    Attributes:
        path: where.
        place: the same with ``*`` for indices, but a claim's clause and subject for its own.
        what: which change it is.
        document: after it.
    """

    path: Place
    place: str
    what: str
    document: dict[str, Any]

    def __str__(self) -> str:
        return f"{'.'.join(map(str, self.path))}: {self.what}"

    def text(self, *, sealed: bool) -> str:
        """The document as JSON; ``sealed``: with a verdict and a seal that fit what it says now."""
        if not sealed:
            return json.dumps(self.document)
        document = {k: v for k, v in self.document.items() if k != "seal"}
        if self.path != ("verdict",):
            document["verdict"] = outcome(document)
        return Certificate.from_json(json.dumps(document)).to_json()


def outcome(document: dict[str, Any]) -> str:
    """What a forger writes as the verdict of the whole."""
    claims = document.get("claims", [])
    if not all(isinstance(c, dict) for c in claims):
        return "INCONCLUSIVE"
    verdicts = [c.get("verdict") for c in claims]
    if "FAILS" in verdicts:
        return Outcome.REFUTED.value
    clauses = {c.get("clause") for c in claims if c.get("subject", "chain") == "chain"}
    four = {"analyticity", "smoothness", "dissipativity", "nondegeneracy"}
    whole = clauses >= four and set(verdicts) == {"HOLDS"}
    return (Outcome.CERTIFIED if whole else Outcome.INCONCLUSIVE).value


def mutations(document: dict[str, Any]) -> Iterator[Mutation]:
    """Every leaf changed, every member of an object and of an array left out, one at a time."""
    for path, value in _walk(document, ()):
        place = _place(document, path)
        for what, changed in _changes(path, value):
            yield Mutation(path, place, what, _put(document, path, changed))
        if path:
            yield Mutation(path, place, "left out", _drop(document, path))
        if isinstance(value, list) and value:
            twice = _put(document, path, [value[0], *value])
            yield Mutation(path, place, "first twice", twice)


def _place(document: dict[str, Any], path: Place) -> str:
    names = ["*" if isinstance(p, int) else p for p in path]
    if len(path) > 1 and path[0] == "claims":
        claim = document["claims"][path[1]]
        names[1] = f"{claim['clause']}.{claim['subject']}"
    return ".".join(names)


def _walk(value: Any, path: Place) -> Iterator[tuple[Place, Any]]:
    yield path, value
    members: Any = ()
    if isinstance(value, dict):
        members = value.items()
    elif isinstance(value, list):
        members = enumerate(value)
    for key, member in members:
        yield from _walk(member, (*path, key))


def _changes(path: Place, value: Any) -> Iterator[tuple[str, Any]]:
    name = path[-1] if path else ""
    if name in ENUMS and len(path) > 1:
        yield from ((f"{value} becomes {v}", v) for v in ENUMS[str(name)] if repr(v) != repr(value))
    elif isinstance(value, bool):
        yield f"{value} becomes {not value}", not value
        yield f"{value} becomes null", None
    elif isinstance(value, int):
        yield f"{value} and one more", value + 1
        yield f"{value} and one less", value - 1
    elif isinstance(value, float):
        yield f"{value} and a hundredth more", value + 0.01 * abs(value) + 1e-9
        yield f"{value} and a third less", value - 0.3 * abs(value) - 1e-9
        yield f"{value} becomes null", None
    elif isinstance(value, str):
        yield from _words(value)
    elif value is None:
        yield "null becomes a number", 0.5
        yield "null becomes a word", "other"


def _words(text: str) -> Iterator[tuple[str, Any]]:
    if len(text) == 64 and set(text) <= set("0123456789abcdef"):
        yield "another digest", ("1" if text[0] == "0" else "0") + text[1:]
        yield "half a digest", text[:32]
    else:
        yield f"{text[:40]!r} becomes longer", text + "x"
        yield f"{text[:40]!r} becomes empty", ""
        digits = [m.start() for m in re.finditer(r"\d", text)]
        for i in dict.fromkeys(digits[:1] + digits[-1:]):
            more = str((int(text[i]) + 1) % 10)
            yield f"{text[:40]!r}, digit {i} one more", text[:i] + more + text[i + 1 :]


def _put(document: dict[str, Any], path: Place, value: Any) -> dict[str, Any]:
    if not path:
        return {}
    changed = copy.deepcopy(document)
    _parent(changed, path)[path[-1]] = value
    return changed


def _drop(document: dict[str, Any], path: Place) -> dict[str, Any]:
    changed = copy.deepcopy(document)
    del _parent(changed, path)[path[-1]]
    return changed


def _parent(document: Any, path: Place) -> Any:
    for part in path[:-1]:
        document = document[part]
    return document


Judged = tuple[Mutation, Certificate | None, CheckReport | None]


def judged(document: dict[str, Any], within: tuple[str, ...]) -> Iterator[Judged]:
    """Mutations, sealed anew: what they read as, and what is found."""
    for mutation in mutations(document):
        if within and not concerned(document, mutation.path).intersection(within):
            continue
        try:
            certificate = Certificate.from_json(mutation.text(sealed=True))
        except CertificateError:
            yield mutation, None, None
        else:
            yield mutation, certificate, check(certificate)


def concerned(document: dict[str, Any], path: Place) -> set[str]:
    """The key at the top, and the clause of the claim, that ``path`` leads into."""
    names = {str(path[0])} if path else set()
    if len(path) > 1 and path[0] == "claims":
        names.add(document["claims"][path[1]]["clause"])
    return names


def listed(mutation: Mutation) -> str | None:
    return next((p for p in UNCHECKED if re.fullmatch(p, mutation.place)), None)


@pytest.mark.slow
def test_every_false_mutation_is_rejected_though_it_is_sealed_anew(
    request: pytest.FixtureRequest,
) -> None:
    """And what the lists above excuse does occur, and is not rejected."""
    least = {"tanh": 1200, "relu": 300, "diverged": 300, "ruled": 300, "ranked": 40}
    missed, used = [], set()
    for name in CERTIFICATES:
        document, rejected = request.getfixturevalue(name), 0
        original = read(document)
        for mutation, certificate, report in judged(document, WITHIN[name]):
            if certificate == original:
                continue  # a key left out that says what its absence says
            excuse = listed(mutation)
            if report is None or not report.stands:
                rejected += 1
                assert report is None or all(c.where != "seal" for c in report.rejected)
            elif excuse is None:
                missed.append(f"{name}: {mutation}")
            else:
                used.add(excuse)
        assert rejected >= least[name]
    assert missed == []
    assert UNCHECKED.keys() - used == set()


@pytest.mark.slow
def test_every_mutation_is_rejected_with_the_old_seal(tanh: dict[str, Any]) -> None:
    original, count = read(tanh), 0
    for mutation in list(mutations(tanh))[::3]:
        try:
            certificate = Certificate.from_json(mutation.text(sealed=False))
        except CertificateError:
            count += 1
            continue
        if mutation.path != ("seal",) and certificate != original:
            assert any(c.where == "seal" for c in check(certificate).rejected), str(mutation)
            count += 1
    assert count >= 300


@pytest.mark.parametrize("seal", ["0" * 64, "x", "0" * 63])
def test_another_seal(tanh: dict[str, Any], seal: str) -> None:
    report = check(read({**tanh, "seal": seal}))
    assert [c.where for c in report.rejected] == ["seal"]


def test_without_a_seal(tanh: dict[str, Any]) -> None:
    report = check(read({k: v for k, v in tanh.items() if k != "seal"}))
    assert report.stands
    assert any(line.startswith("seal:") for line in report.unverifiable)


# --- forgeries that take more than one change -----------------------------------------------------


Change = Callable[[dict[str, Any]], None]


def claim(document: dict[str, Any], clause: str, block: str | None = None) -> dict[str, Any]:
    found: dict[str, Any] = next(
        c for c in document["claims"] if (c["clause"], c["block"]) == (clause, block)
    )
    return found


def hold(clause: str) -> Change:
    """Let everything that is said of ``clause`` hold, by proof, without a finding."""

    def change(document: dict[str, Any]) -> None:
        for c in document["claims"]:
            if c["clause"] == clause:
                c.update(verdict="HOLDS", evidence="PROVED", findings=[])

    return change


def drop_doubt_about_bounds(document: dict[str, Any]) -> None:
    for c in document["claims"]:
        if c["clause"] == "smoothness":
            c.update(findings=[])


def hold_the_chain_only(document: dict[str, Any]) -> None:
    claim(document, "analyticity").update(verdict="HOLDS", evidence="PROVED", findings=[])


def drop_failing_blocks(document: dict[str, Any]) -> None:
    gone = {c["block"] for c in document["claims"] if c["verdict"] == "FAILS" and c["block"]}
    document["claims"] = [c for c in document["claims"] if c["block"] not in gone or not c["block"]]
    hold_the_chain_only(document)


def drop_the_run(document: dict[str, Any]) -> None:
    document["trajectory"] = None
    document["claims"] = [c for c in document["claims"] if c["subject"] != "trajectory"]


def drop_bad_inequalities(document: dict[str, Any]) -> None:
    run = document["trajectory"]
    run["inequalities"] = [i for i in run["inequalities"] if i["holds"]]
    claim(document, "descent").update(verdict="HOLDS", findings=[])


def smooth_the_loss(document: dict[str, Any]) -> None:
    losses = document["trajectory"]["series"]["loss"]
    losses[:] = sorted((x for x in losses if x is not None), reverse=True)


def lend_a_witness(document: dict[str, Any]) -> None:
    block = next(c for c in document["claims"] if c["verdict"] == "FAILS" and c["block"])
    other = next(
        c for c in document["claims"] if c["clause"] == "analyticity" and c["verdict"] == "HOLDS"
    )
    other.update(verdict="FAILS", evidence="MEASURED", findings=block["findings"])


@pytest.mark.parametrize(
    ("name", "change", "where"),
    [
        ("relu", drop_doubt_about_bounds, "findings"),
        ("relu", hold("smoothness"), "verdict"),
        ("relu", hold_the_chain_only, "analyticity"),
        ("relu", drop_failing_blocks, "its blocks"),
        ("relu", lend_a_witness, "block"),
        ("relu", drop_the_run, "claims"),
        ("relu", drop_bad_inequalities, "inequalities"),
        ("relu", smooth_the_loss, "directional_smoothness"),
        ("tanh", hold("nondegeneracy"), "nondegeneracy"),
        ("tanh", drop_the_run, "claims"),
        ("diverged", drop_bad_inequalities, "descent"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_forgeries(name: str, change: Change, where: str, request: pytest.FixtureRequest) -> None:
    document = copy.deepcopy(request.getfixturevalue(name))
    change(document)
    document["verdict"] = outcome(document)
    del document["seal"]
    report = check(read(document))
    assert any(where in c.where for c in report.rejected), reasons(report)


def test_a_contradicted_claim_counts_as_unknown(ranked: dict[str, Any]) -> None:
    document = copy.deepcopy(ranked)
    assert check(read(document)).verdict is Outcome.CERTIFIED
    claim(document, "nondegeneracy")["numbers"]["rank"] = 11
    report = check(read(document))
    assert report.verdict is Outcome.INCONCLUSIVE
    assert not report.stands


def test_reasons_say_where_what_and_why(ranked: dict[str, Any]) -> None:
    document = copy.deepcopy(ranked)
    claim(document, "nondegeneracy")["numbers"]["rank"] = 11
    del document["seal"]
    index = document["claims"].index(claim(document, "nondegeneracy"))
    assert reasons(check(read(document))) == [
        f"claims[{index}] (nondegeneracy), rank asserts 11, but 10 follows"
    ]


def test_a_certificate_of_this_process(models: Path, registry: Registry) -> None:
    """It need not have been written; tuples and numbers of numpy are what their JSON says."""
    certificate = blockframe.certify(f"{models}:net", registry=registry, steps=1)
    assert reasons(check(certificate)) == []
    numpy = pytest.importorskip("numpy")
    claims = [
        evolve(c, numbers={**c.numbers, "ops": numpy.int64(c.numbers["ops"])})
        if "ops" in c.numbers
        else c
        for c in certificate.claims
    ]
    assert reasons(check(evolve(certificate, claims=tuple(claims)))) == []


@pytest.mark.parametrize("value", [None, "text", {}, 3])
def test_what_is_no_certificate(value: Any) -> None:
    with pytest.raises(CertificateError, match="is no certificate"):
        check(value)


def test_static_only(models: Path, registry: Registry) -> None:
    certificate = blockframe.certify(f"{models}:net", registry=registry, static_only=True)
    assert reasons(check(certificate)) == []


def test_a_network_that_is_not_traced(registry: Registry) -> None:
    class Branch(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            return y if y.sum() > 0 else -y

    module = Branch(3, 2)
    certificate = blockframe.certify((module, (torch.ones(4, 3),)), registry=registry)
    assert certificate.claim("analyticity").findings[0].code == "A901"
    report = check(certificate)
    assert reasons(report) == []
    assert any("not traced" in line for line in report.unverifiable)


@pytest.mark.parametrize("lr", [1e-15, 0.05, 5.0, 1e3])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_runs_of_every_kind_stand(lr: float, dtype: str, registry: Registry) -> None:
    """Rounding decides, it descends, it is sharp, it diverges: all that is re-derived."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2))
    x, y = torch.randn(6, 3), torch.randn(6, 2)
    options = {"registry": registry, "steps": 4, "lr": lr, "dtype": dtype}
    assert reasons(check(blockframe.certify((module, (x,), y), **options))) == []


def test_a_gradient_in_few_digits_refutes_no_bound_of_it(registry: Registry) -> None:
    """Of ∇L(θ_0) clause N bounds an entry by the real number, a run in bfloat16 has two digits."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 0.3)
    target = (module, (torch.full((3, 1), 1.0035),), torch.ones(3, 1))  # 1 in bfloat16
    for dtype in ("bfloat16", "float64"):
        certificate = blockframe.certify(target, registry=registry, steps=1, lr=0.1, dtype=dtype)
        document = json.loads(certificate.to_json())
        assert reasons(check(certificate)) == []
        weak = claim(document, "nondegeneracy")["numbers"]["weak"]
        weak["gradient at least"] *= 1.01
        lied = reasons(check(read(document)))
        assert any("weak" in reason for reason in lied) == (dtype == "float64")


def test_a_part_whose_square_is_too_large(tanh: dict[str, Any]) -> None:
    document = copy.deepcopy(tanh)
    document["trajectory"]["series"]["update_size.2"][1] = 1e308
    del document["seal"]
    assert check(read(document)) is not None


def test_at_the_minimum(registry: Registry) -> None:
    """The gradient is 0, no step has a length, and the PL ratio does not exist."""
    module = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(module.weight)
    certificate = blockframe.certify(
        (module, (torch.eye(2),), torch.zeros(2, 1)), registry=registry, steps=2
    )
    assert reasons(check(certificate)) == []
    document = json.loads(certificate.to_json())
    del document["seal"]
    claim(document, "descent").update(verdict="HOLDS", evidence="MEASURED", findings=[])
    document["verdict"] = outcome(document)
    assert any("descent" in reason for reason in reasons(check(read(document))))


class Follow(torch.autograd.Function):
    """A step whose gradient is made up."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class Counting(nn.Linear):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


class Through(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = Follow.apply(super().forward(x))
        return y


@pytest.mark.parametrize(
    ("kind", "lr", "verdict"),
    [
        (Counting, 0.01, "UNKNOWN"), (Counting, 50.0, "UNKNOWN"), (Counting, 1e200, "FAILS"),
        (Through, 0.01, "UNKNOWN"), (Through, 50.0, "FAILS"),
    ],
)  # fmt: skip
def test_a_run_of_another_network_than_was_traced(
    kind: type[nn.Linear], lr: float, verdict: str, registry: Registry
) -> None:
    """The claim about the run is what its doubts leave of it; one that says more is rejected."""
    torch.manual_seed(0)
    target = (kind(3, 2), (torch.randn(6, 3),), torch.randn(6, 2))
    certificate = blockframe.certify(target, registry=registry, steps=3, lr=lr)
    assert certificate.claim("descent").verdict == verdict
    assert reasons(check(certificate)) == []
    witness = {"code": "D401", "message": "it rose", "witness": {"step": 0}}
    others: list[dict[str, Any]] = [
        {"verdict": "HOLDS", "evidence": "MEASURED", "findings": []},
        {"verdict": "HOLDS", "evidence": "MEASURED"},
        {"verdict": "FAILS", "evidence": "MEASURED", "findings": [witness]},
        {"verdict": "UNKNOWN", "evidence": None, "findings": []},
    ]
    for other in others:
        document = json.loads(certificate.to_json())
        del document["seal"]
        claim(document, "descent").update(other)
        document["verdict"] = outcome(document)
        assert any("descent" in reason for reason in reasons(check(read(document))))


def without_doubts(*clauses: str) -> Change:
    """Leave out the doubts of these clauses' claims, and let those hold."""

    def change(document: dict[str, Any]) -> None:
        for c in document["claims"]:
            if c["clause"] in clauses:
                c.update(verdict="HOLDS", findings=[])
                c["evidence"] = (
                    "MEASURED" if c["clause"] in ("descent", "dissipativity") else "PROVED"
                )
        chain = claim(document, "analyticity")
        chain["numbers"]["blocks that hold"] = 1 if chain["verdict"] == "HOLDS" else 0

    return change


@pytest.mark.parametrize(
    "clauses",
    [("analyticity", "descent"), ("smoothness",), ("dissipativity",), ("nondegeneracy",)],
)
def test_a_doubt_about_the_graph_is_one_for_every_clause(
    clauses: tuple[str, ...], registry: Registry
) -> None:
    torch.manual_seed(0)
    target = (Counting(3, 2), (torch.randn(6, 3),), torch.randn(6, 2))
    certificate = blockframe.certify(target, registry=registry, steps=3)
    document = json.loads(certificate.to_json())
    del document["seal"]
    without_doubts(*clauses)(document)
    document["verdict"] = outcome(document)
    assert any("clause A " in reason for reason in reasons(check(read(document))))


def test_a_doubt_about_the_graph_is_none_about_a_block(registry: Registry) -> None:
    torch.manual_seed(0)
    target = (Counting(3, 2), (torch.randn(6, 3),), torch.randn(6, 2))
    document = json.loads(blockframe.certify(target, registry=registry, steps=3).to_json())
    del document["seal"]
    without_doubts("nondegeneracy")(document)
    claim(document, "analyticity", "model")["findings"] = claim(document, "analyticity")["findings"]
    document["verdict"] = outcome(document)
    assert any("clause A doubts" in reason for reason in reasons(check(read(document))))


# --- nothing is trusted ---------------------------------------------------------------------------


def test_the_checker_imports_no_analysis(tanh: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "c.cert.json"
    path.write_text(json.dumps(tanh), encoding="utf-8")
    code = (
        "import sys; from pathlib import Path; from blockframe.certificate.store import read; "
        "import blockframe; "
        f"assert blockframe.check(read(Path({str(path)!r}))).stands; "
        "print(*sorted(m for m in sys.modules if m.partition('.')[0] == 'blockframe')); "
        "print(*({'torch', 'transformers', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    own, heavy = done.stdout.split("\n")[:2]
    assert heavy == ""
    records = {
        "blockframe",
        "blockframe.errors",
        "blockframe.interrupts",
        "blockframe.writing",
        "blockframe.contract",
        "blockframe.contract.claim",
    }
    others = {m for m in own.split() if not m.startswith("blockframe.certificate")} - records
    assert others == set()


def test_the_checkers_files_import_no_analysis() -> None:
    """Nor do they on a path that the test above does not take."""
    folder = Path(blockframe.__file__).parent / "certificate"
    for path in [*folder.glob("*_check.py"), *map(folder.joinpath, (
        "checker.py", "index.py", "ledger.py", "files.py", "run_theory.py",
    ))]:  # fmt: skip
        text = path.read_text(encoding="utf-8")
        modules = set(re.findall(r"^\s*(?:from|import) (blockframe[\w.]*)", text, re.MULTILINE))
        assert all(
            m.startswith("blockframe.certificate.") or m == "blockframe.errors" for m in modules
        ), path.name
        assert not modules & {"blockframe.certificate.codec", "blockframe.certificate.store"}


# --- hostile documents ----------------------------------------------------------------------------

_free = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**30), 2**63, 1e308, -1e308, 5e-324, -0.0])
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["Infinity", "NaN", "HOLDS", "mlp", "\ud800", "x" * 10_000]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


def any_place(document: dict[str, Any]) -> st.SearchStrategy[Place]:
    return st.sampled_from([path for path, _ in _walk(document, ()) if path])


@pytest.mark.parametrize("name", ["relu", "ranked"])
def test_anything_anywhere_is_judged_or_refused(name: str, request: pytest.FixtureRequest) -> None:
    """No value at any place breaks the checker: it is an error of reading, or it is judged."""
    document = request.getfixturevalue(name)

    @settings(max_examples=400, deadline=None)
    @given(places=st.lists(any_place(document), min_size=1, max_size=3), data=st.data())
    def hostile(places: list[Place], data: st.DataObject) -> None:
        changed: dict[str, Any] = document
        for path in places:
            try:
                changed = _put(changed, path, data.draw(_free))
            except (KeyError, IndexError, TypeError, AttributeError):
                continue  # an earlier change took this place away
        try:
            text = json.dumps(changed)
            certificate = Certificate.from_json(text)
        except (ValueError, CertificateError):
            return
        report = check(certificate, Path("/nowhere"))
        assert report.stands or all(map(str, report.rejected))

    hostile()
