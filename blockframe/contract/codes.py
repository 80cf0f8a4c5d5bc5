"""Every finding code: what it means, what causes it, what helps. The only place that says so.

Findings take their help from here; ``blockframe explain`` and docs/findings take everything. A new
code is one record; ``python -m blockframe.report.pages`` then writes it into the page.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from attrs import field, frozen

from blockframe.contract.claim import Verdict

SETTING = (
    "In an example, f stands between two linear layers of a small network; net is a whole network, "
    "x and y its data; lr is an option of certify."
)
"""How the examples are to be read."""


AT_START, BY_AUTO = "at step 0", "where --lr is auto"
NOT_DESCENT = "where the norm recursion is violated"
IN_HALF, IN_DOUBLE = "in bfloat16 and float16", "in float64"
AS_IN_A = "where clause A has a finding about the same operation"
"""Cases of `Code.special`."""


_NUMBER = re.compile(r"\{(\w+)\}")


@frozen
class Example:
    """A piece of a model for which the finding occurs, and the same, repaired.

    Python that defines some of the names of `SETTING`, with ``torch``, ``nn`` and ``F``
    (``torch.nn.functional``) there; the tests run both (tests/contract/test_codes.py).
    """

    bad: str
    good: str


@frozen
class Code:
    """One kind of finding.

    Attributes:
        code: the letter of the clause (D also for the run) and three digits.
        name: a few words.
        clause: whose claims carry it (what speaks against the graph stands in clause S as well).
        worst: the verdict that it can cause: FAILS (where it has a witness, else UNKNOWN),
            UNKNOWN, or None for a note.
        meaning: what is the matter.
        causes: what in a model or a run brings it about.
        help: what helps, as the finding says it; ``{name}`` stands for a number of the finding.
        special: what helps instead, by the case in which it does.
        docs: where more is said.
        example: None where a few lines cannot show it.
    """

    code: str
    name: str
    clause: str
    worst: Verdict | None
    meaning: str
    causes: str
    help: str
    special: Mapping[str, str] = field(factory=dict, kw_only=True)
    docs: str = field(default="docs/theory section 1", kw_only=True)
    example: Example | None = field(default=None, kw_only=True)

    def advice(self, case: str = "", **numbers: str) -> str:
        """What helps, with the numbers of a finding. ``case``: one of `special`."""
        return (self.special[case] if case else self.help).format(**numbers)

    @property
    def remedies(self) -> tuple[str, ...]:
        """What helps in general, then in special cases: ``LIMIT`` where a number will stand."""
        cases = [f"{case}: {text}" for case, text in self.special.items()]
        return tuple(_NUMBER.sub(lambda m: m[1].upper(), t) for t in [self.help, *cases])

    @property
    def numbers(self) -> tuple[str, ...]:
        """The words in `remedies` that stand for a number: ``LIMIT``."""
        texts = " ".join([self.help, *self.special.values()])
        return tuple(dict.fromkeys(name.upper() for name in _NUMBER.findall(texts)))


_N = "nondegeneracy"
_A, _S, _D, _RUN = "analyticity", "smoothness", "dissipativity", "descent"
_FAILS, _UNKNOWN, _NOTE = Verdict.FAILS, Verdict.UNKNOWN, None

_RECORDS = (
    # --- A1: the function itself ----------------------------------------------------------------
    Code(
        "A101", "kink", _A, _FAILS,
        "a value that depends on parameters reaches a point where a derivative jumps",
        "relu, leaky_relu, abs, hardtanh, clamp, max and max pooling, sort, top-k",
        "the theory needs an analytic function here: gelu, silu or tanh instead of relu, "
        "average instead of maximum",
        example=Example("f = torch.relu", "f = F.gelu"),
    ),
    Code(
        "A102", "jump", _A, _FAILS,
        "the value itself jumps as parameters vary",
        "round, sign, argmax, a cast to integers, a comparison that feeds a where or a mask, an "
        "index that depends on parameters",
        "replace the hard choice by an analytic one (sigmoid, softmax), or compute it from "
        "constants only",
        example=Example("f = lambda h: h * (h > 0)", "f = lambda h: h * torch.sigmoid(4 * h)"),
    ),
    Code(
        "A103", "singularity not excluded", _A, _FAILS,
        "an argument could not be kept away from where the operation is not analytic",
        "a division, root, logarithm, real power or norm of something that may come to 0, a "
        "normalisation with eps = 0",
        "keep the argument away from the singularity: add eps > 0 under a root or to a "
        "denominator, or use softplus/exp for what must be positive",
        example=Example("f = lambda h: 1 / h", "f = lambda h: 1 / (1 + h.square())"),
    ),
    Code(
        "A104", "infinite value", _A, _FAILS,
        "an operation may receive an infinite value",
        "a softmax whose row may be masked entirely, a mask of infinities that reaches something "
        "other than a softmax",
        "make sure that no row is masked entirely, and use a large negative number for a mask",
        example=Example(
            "hidden = torch.ones(4, 4, dtype=torch.bool).triu()  # from the first row everything\n"
            "f = lambda h: (h @ h.T).masked_fill(hidden, -torch.inf).softmax(-1) @ h",
            "hidden = torch.ones(4, 4, dtype=torch.bool).triu(1)\n"
            "f = lambda h: (h @ h.T).masked_fill(hidden, -torch.inf).softmax(-1) @ h",
        ),
    ),
    Code(
        "A105", "softplus threshold", _A, _NOTE,
        "the implementation returns its argument above a threshold: it deviates from the "
        "analytic function by at most e^-20",
        "torch.nn.functional.softplus",
        "nothing to do: the function that the claims speak of is the analytic one",
        example=Example("f = F.softplus", "f = F.silu"),
    ),
    # --- A2, A3: what descent follows is not the derivative of a function -----------------------
    Code(
        "A201", "random operation", _A, _UNKNOWN,
        "the forward draws random numbers, so it is not a function",
        "rand, randn, multinomial, dropout that stays on in evaluation mode",
        "remove the noise, or draw it once as a buffer; dropout is off in evaluation mode",
        example=Example("f = lambda h: F.dropout(h, 0.1)", "f = nn.Dropout(0.1)"),
    ),
    Code(
        "A301", "detached value", _A, _UNKNOWN,
        "a value passes and its gradient is stopped, so the gradient followed is not the "
        "derivative of the loss",
        "detach, no_grad, inference_mode, .item(), a part of an operation that has no derivative, "
        "a parameter that is read through a buffer, a view or a closure, a write that names one "
        "place twice (the last one counts, the gradient counts all)",
        "remove detach, .item() or no_grad on this path, or make it constant",
        example=Example("f = lambda h: h * h.detach()", "f = lambda h: h * h"),
    ),
    Code(
        "A302", "custom backward", _A, _UNKNOWN,
        "a torch.autograd.Function brings its own gradient, which nothing compares with the "
        "forward at every point",
        "a straight-through estimator, a fused kernel with a backward of its own",
        "write the forward in ordinary tensor operations and let autograd differentiate it",
        example=Example(
            "class Double(torch.autograd.Function):\n"
            "    @staticmethod\n"
            "    def forward(ctx, h):\n"
            "        return 2 * h\n"
            "\n"
            "    @staticmethod\n"
            "    def backward(ctx, gradient):\n"
            "        return 2 * gradient\n"
            "\n"
            "f = Double.apply",
            "f = lambda h: 2 * h",
        ),
    ),
    Code(
        "A303", "hook", _A, _UNKNOWN,
        "a hook may change the gradient",
        "register_hook on a tensor or parameter, a backward hook of a module, hooks on a node of "
        "the autograd graph or on saved tensors; there beforehand, or set by the forward",
        "remove the hook",
        example=Example(
            "def f(h):\n"
            "    if h.requires_grad:\n"
            "        h.register_hook(lambda gradient: gradient.clamp(-1, 1))\n"
            "    return torch.tanh(h)",
            "f = torch.tanh",
        ),
    ),
    Code(
        "A304", "other gradient", _A, _UNKNOWN,
        "at the given parameters or at a random point near them, the module's gradient differs "
        "from the derivative of its forward, or autograd gives none; the finding names the "
        "parameter and the relative difference",
        "a custom backward, a hook, .data, detach; padding_idx of an embedding where the padding "
        "token occurs in the data, since autograd leaves out the gradient of that row",
        "look for what replaces the gradient on the way to this parameter: a custom backward, a "
        "hook, .data, detach, padding_idx",
        example=Example(
            "net = nn.Sequential(nn.Embedding(5, 3, padding_idx=0), nn.Linear(3, 2))\n"
            "x = torch.tensor([[0, 1, 2]])",
            "net = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2))\n"
            "x = torch.tensor([[0, 1, 2]])",
        ),
    ),
    # --- A9: the network is not known well enough ------------------------------------------------
    Code(
        "A900", "unknown operation", _A, _UNKNOWN,
        "the catalogue has no record of the operation, or none for complex values",
        "an operation of a library, a rare one of PyTorch's (docs/ops lists those that are known)",
        "teach it in three lines (docs/atoms), or install a plugin that does",
        docs="docs/atoms",
        example=Example("f = torch.special.i0e", "f = torch.sigmoid"),
    ),
    Code(
        "A901", "not captured", _A, _UNKNOWN,
        "the forward is not one traced function",
        "a Python branch or loop that depends on the value of a tensor, autocast, code that "
        "torch.export does not follow",
        "make the branch a torch.where, or move it out of the forward",
        example=Example(
            "f = lambda h: h if h.sum() > 0 else -h", "f = lambda h: torch.tanh(h.sum()) * h"
        ),
    ),
    Code(
        "A902", "graph differs from model", _A, _UNKNOWN,
        "the captured graph gives another output than the module, the module gives two outputs "
        "for one input, or the forward takes a number out of a value that depends on parameters, "
        "on which it may branch",
        "random numbers from outside of torch, hidden state, .item(), float(...)",
        "look for random numbers, counters or other state in the forward; if there are none, it "
        "is a defect of the capture: please report it",
        example=Example(
            "import random\n\nf = lambda h: random.random() * h",
            "import random\n\nscale = random.random()\nf = lambda h: scale * h",
        ),
    ),
    Code(
        "A903", "forward changes its own state", _A, _UNKNOWN,
        "a buffer or attribute is written during the forward, so the next call is another function",
        "a counter, a cache, running statistics",
        "keep counters, caches and other state out of the forward",
        example=Example(
            "class Net(nn.Linear):\n"
            "    calls = 0\n"
            "\n"
            "    def forward(self, x):\n"
            "        self.calls += 1\n"
            "        return super().forward(x)\n"
            "\n"
            "net = Net(3, 2)",
            "net = nn.Linear(3, 2)",
        ),
    ),
    Code(
        "A904", "not comparable", _A, _UNKNOWN,
        "the module or the traced graph by itself does not run at the given parameters or near "
        "them, so the two could not be compared; the message has the error",
        "an operation that is defined for some parameters only, a check that raises",
        "write that line in ordinary tensor operations",
        example=Example(
            "class Net(nn.Linear):\n"
            "    def forward(self, x):\n"
            "        return x @ torch.linalg.cholesky(0.01 * torch.eye(8) + self.weight)\n"
            "\n"
            "net, x = Net(8, 8), torch.ones(4, 8)\n"
            "nn.init.zeros_(net.weight)",
            "net, x = nn.Linear(8, 8), torch.ones(4, 8)",
        ),
    ),
    Code(
        "A905", "not finite", _A, _UNKNOWN,
        "the output is not finite at the given parameters or near them, so its gradient could "
        "not be compared",
        "NaN or inf among parameters or data, overflow",
        "check the parameters for NaN or inf, and the data",
        example=Example(
            "net = nn.Linear(3, 2)\nnn.init.constant_(net.bias, torch.nan)",
            "net = nn.Linear(3, 2)\nnn.init.zeros_(net.bias)",
        ),
    ),
    Code(
        "A906", "gradient not compared", _A, _UNKNOWN,
        "the module's gradient was not compared with the graph's: there are no weights to run it "
        "with",
        "a module on the meta device whose problem has no proxy",
        "give the problem real weights, or a proxy that has them (docs/proxy)",
        docs="docs/proxy",
        example=Example(
            'net, x = nn.Linear(3, 2, device="meta"), torch.empty(4, 3, device="meta")',
            "net, x = nn.Linear(3, 2), torch.ones(4, 3)",
        ),
    ),
    # --- S ----------------------------------------------------------------------------------------
    Code(
        "S101", "no bound", _S, _UNKNOWN,
        "no polynomial bound was found from this operation on; the message says why",
        "exp of something unbounded, an operation that is not twice differentiable, a division by "
        "what may come near 0, a record that states no constants for this use (docs/ops)",
        "keep what is exponentiated or divided within bounds (softmax, a norm, a sigmoid), or "
        "state the op's constants in a record (docs/atoms)",
        special={
            AS_IN_A: "a bound of two derivatives needs them to exist: what helps clause A here "
            "(gelu instead of relu) helps clause S too",
        },
        docs="docs/theory section 2",
        example=Example("f = torch.exp", "f = lambda h: h.softmax(-1)"),
    ),
    # --- D1 ---------------------------------------------------------------------------------------
    Code(
        "D101", "bound of the loss contradicted", _D, _UNKNOWN,
        "at an iterate ⟨F, ∇_F L⟩ is below what the loss says is its least value",
        "a loss of a plugin whose pairing_bound is wrong",
        "correct pairing_bound of the loss, or leave it out",
        docs="docs/theory section 5",
    ),
    Code(
        "D102", "scale-invariant weight", _D, _NOTE,
        "the output feels how large the weight is through the eps of a norm only, so its part of "
        "the pairing is nearly 0; the finding gives the pairing of its block along the run",
        "a linear map whose value goes into a layer norm or RMS norm and nowhere else",
        "nothing to do: such weights neither help nor harm clause D, and descent lets them grow",
        docs="docs/theory section 5",
        example=Example(
            "net = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 2))\n"
            'lr = "auto"',
            'net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))\nlr = "auto"',
        ),
    ),
    # --- clause N ---------------------------------------------------------------------------------
    Code(
        "N101", "too few parameters", _N, _FAILS,
        "there are fewer parameters than outputs, so DF has more rows than columns",
        "a network that is small for the data: P < Nc, N rows that differ of c outputs each",
        "more parameters, or fewer samples (--samples)",
        docs="docs/theory section 3",
        example=Example(
            "net, x = nn.Linear(3, 2), torch.eye(3).repeat(4, 1) + torch.arange(12).view(12, 1)",
            "net, x = nn.Linear(3, 2), torch.eye(3)",
        ),
    ),
    Code(
        "N102", "equal inputs", _N, _FAILS,
        "two samples have equal inputs, so their rows of DF are equal at every θ",
        "a data set in which a sample occurs twice",
        "leave out the copy",
        docs="docs/theory section 3",
        example=Example(
            "net, x = nn.Linear(3, 2), torch.ones(2, 3)",
            "net, x = nn.Linear(3, 2), torch.eye(3)[:2]",
        ),
    ),
    Code(
        "N103", "outputs tied", _N, _FAILS,
        "the network's last operation ties the entries of a row of outputs to each other, so a "
        "combination of rows of DF is 0 at every θ",
        "a softmax, log-softmax or layer norm without gain at the end of the network",
        "take the values before it as outputs: a loss for classes has its own log-softmax",
        docs="docs/theory section 3",
        example=Example(
            "net, x = nn.Sequential(nn.Linear(3, 2), nn.Softmax(-1)), torch.eye(3)",
            "net, x = nn.Linear(3, 2), torch.eye(3)",
        ),
    ),
    Code(
        "N104", "output without input", _N, _FAILS,
        "an output depends on no input, so it is the same for different samples at every θ",
        "a branch that is multiplied by zero, or a parameter that is returned as it is",
        "make the output depend on the input",
        docs="docs/theory section 3",
        example=Example(
            "class Dead(nn.Module):\n"
            "    def __init__(self):\n"
            "        super().__init__()\n"
            "        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 2)\n"
            "    def forward(self, x):\n"
            "        return self.b(torch.tanh(self.a(x)) * 0.0 + 1.0)\n"
            "net, x = Dead(), torch.eye(3)",
            "net, x = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)), torch.eye(3)",
        ),
    ),
    Code(
        "N105", "rank not verified", _N, _UNKNOWN,
        "no full row rank of DF was verified at any of the points that were tried, or no argument "
        "applies to this network and this many outputs",
        "a rank that is really lower, outputs that are nearly dependent, or a network for which "
        "there is no argument yet (docs/theory section 3 has them)",
        "fewer samples (--samples), a wider network, or float64 weights that are not tiny",
        docs="docs/theory section 3",
        example=Example(
            "net, x = nn.Sequential(nn.Linear(3, 1), nn.Linear(1, 3)), torch.eye(3)",
            "net, x = nn.Linear(3, 2), torch.eye(3)",
        ),
    ),
    Code(
        "N106", "rows not known", _N, _UNKNOWN,
        "the inputs hold no numbers, or the first dimension of the outputs is not the sample, so "
        "it is not known which rows of DF there are",
        "a problem without data, or a network that puts samples elsewhere",
        "give inputs with numbers, and outputs whose first dimension is the sample",
        docs="docs/theory section 3",
        example=Example(
            "class Turned(nn.Module):\n"
            "    def __init__(self):\n"
            "        super().__init__()\n"
            "        self.a = nn.Linear(3, 2)\n"
            "    def forward(self, x):\n"
            "        return self.a(x).T\n"
            "net, x = Turned(), torch.eye(3)",
            "net, x = nn.Linear(3, 2), torch.eye(3)",
        ),
    ),
    # --- the run ----------------------------------------------------------------------------------
    Code(
        "D401", "inequality violated", _RUN, _FAILS,
        "a step did not satisfy an inequality that it must satisfy; the finding names the first "
        "such step, both sides, and what is above 1 there: η·λ/2 (sharpness) at an iterate, η·Λ/2 "
        "(largest curvature of the step)",
        "a learning rate that is too large",
        "lower --lr below {limit}, or take --lr auto",
        special={
            BY_AUTO: "lower --lr below {limit}",
            NOT_DESCENT: "a fault of this program, not of the network: please report it",
        },
        docs="docs/theory section 6",
        example=Example("lr = 10.0", 'lr = "auto"'),
    ),
    Code(
        "D402", "not finite", _RUN, _FAILS,
        "a loss, gradient or parameter overflowed or became NaN at the named step; what was "
        "measured before is kept",
        "a learning rate that is far too large; at step 0, the weights or the data",
        "lower --lr below {limit}, or take --lr auto",
        special={
            BY_AUTO: "lower --lr below {limit}",
            AT_START: "look at the weights and the data: the run starts there",
        },
        docs="docs/theory section 6",
        example=Example("lr = 1e200", 'lr = "auto"'),
    ),
    Code(
        "D403", "rounding decides", _RUN, _UNKNOWN,
        "both sides of an inequality are so close that rounding decides",
        "a loss that hardly changes any more, or steps that are too short to change it; half "
        "precision, in which rounding is allowed a large part of the loss itself",
        "take --dtype float64, or fewer steps: the loss hardly changes any more",
        special={
            IN_HALF: "take --dtype float32 or float64: in half precision hardly any step can be "
            "told from rounding (docs/cli, Numbers)",
            IN_DOUBLE: "take fewer steps: the loss hardly changes any more",
            AT_START: "take another --lr, or start elsewhere: other weights, or --seed and --init "
            "where they draw them",
        },
        docs="docs/theory section 6",
        example=Example("lr = 1e-15", 'lr = "auto"'),
    ),
    Code(
        "D404", "sharp", _RUN, _NOTE,
        "η·λ_max/2 ≥ 1 at some iterate though the run descends: there the descent rests on the "
        "directional smoothness alone",
        "a steep direction in which the run does not move",
        "lower --lr below 2/λ = {limit}",
        docs="docs/theory section 6",
        example=Example(
            "net = nn.Linear(2, 1, bias=False)\n"
            "net.weight.data = torch.tensor([[0.0, 1.0]])  # at the bottom of the steep direction\n"
            "x, y = torch.tensor([[10.0, 0.0], [0.0, 1.0]]), torch.zeros(2, 1)\n"
            "lr = 0.5",
            "net = nn.Linear(2, 1, bias=False)\n"
            "net.weight.data = torch.tensor([[0.0, 1.0]])\n"
            "x, y = torch.tensor([[10.0, 0.0], [0.0, 1.0]]), torch.zeros(2, 1)\n"
            "lr = 0.01",
        ),
    ),
    Code(
        "D405", "gradient 0", _RUN, _UNKNOWN,
        "the gradient is 0 at θ_0, to the last bit, so that every step has length 0 and nothing "
        "is seen of descent",
        "a start that is a minimum, a maximum or a saddle (weights that are all 0), units that "
        "are all off, a loss that does not depend on the parameters",
        "start elsewhere: other weights, or --seed and --init where they draw them; if the "
        "gradient is 0 there too, see that the output depends on the parameters",
        docs="docs/theory section 6",
        example=Example(
            "net = nn.Linear(3, 2)\n"
            "nn.init.zeros_(net.weight)\n"
            "nn.init.zeros_(net.bias)\n"
            'y, lr = torch.zeros(4, 2), "auto"',
            'net = nn.Linear(3, 2)\ny, lr = torch.zeros(4, 2), "auto"',
        ),
    ),
)  # fmt: skip

CODES: Mapping[str, Code] = {record.code: record for record in _RECORDS}
