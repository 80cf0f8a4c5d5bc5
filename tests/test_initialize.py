"""Weight matrices drawn anew."""

import math

import pytest
import torch
from torch import nn

from blockframe.errors import InputError
from blockframe.initialize import SCHEMES, VARIANCES, Scheme, initialize


def deviation_is(weight: torch.Tensor, variance: float) -> bool:
    """Whether the sample deviation is within five standard errors of the square root."""
    expected = math.sqrt(variance)
    return abs(weight.std().item() - expected) < 5 * expected / math.sqrt(2 * weight.numel())


@pytest.mark.parametrize("scheme", VARIANCES)
@pytest.mark.parametrize(
    ("layer", "inputs", "outputs"),
    [
        (nn.Linear(300, 60), 300, 60),
        (nn.Conv2d(16, 64, 3), 16 * 9, 64 * 9),
        (nn.Conv2d(16, 64, 3, groups=4), 4 * 9, 16 * 9),
        (nn.ConvTranspose1d(16, 64, 5), 16 * 5, 64 * 5),
    ],
)
def test_the_variance_is_that_of_the_scheme(scheme, layer, inputs, outputs):
    bias = layer.bias.detach().clone()
    assert initialize(layer, scheme, 0) == ("weight",)
    variance = {
        "xavier": 2 / (inputs + outputs),
        "he": 2 / inputs,
        "lecun": 1 / inputs,
    }[scheme]
    assert deviation_is(layer.weight, variance)
    assert torch.equal(layer.bias, bias)


def test_gates_are_matrices_of_their_own():
    lstm = nn.LSTM(200, 50)
    initialize(lstm, "xavier", 0)
    assert deviation_is(lstm.weight_ih_l0, 2 / 250)
    assert deviation_is(lstm.weight_hh_l0, 2 / 100)
    attention = nn.MultiheadAttention(90, 3)
    initialize(attention, "xavier", 0)
    assert deviation_is(attention.in_proj_weight, 2 / 180)


def test_a_transposed_layer_has_its_inputs_first():
    class Transposed(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(400, 30))

    layer = Transposed()
    initialize(layer, "lecun", 0, transposed=(Transposed,))
    assert deviation_is(layer.weight, 1 / 400)


def test_a_bare_parameter_is_a_stack_of_matrices():
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.Parameter(torch.zeros(4, 30, 200))
            self.token = nn.Parameter(torch.zeros(1, 1, 8))
            self.log_decay = nn.Parameter(torch.zeros(4, 4))

    experts = Experts()
    assert initialize(experts, "he", 0, keep=("log_decay",)) == ("up",)
    assert deviation_is(experts.up, 2 / 200)
    assert not experts.token.any()
    assert not experts.log_decay.any()


def test_embeddings_stay_also_where_a_head_shares_them():
    model = nn.Sequential(nn.Embedding(16, 8), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 16))
    model[3].weight = model[0].weight
    before = model[0].weight.detach().clone()
    assert initialize(model, "xavier", 0) == ("1.weight",)
    assert torch.equal(model[0].weight, before)


def test_the_seed_decides():
    def drawn(seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        layer = nn.Linear(5, 3).to(dtype)
        initialize(layer, "xavier", seed)
        return layer.weight.detach()

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    assert torch.equal(drawn(1), drawn(1, torch.float64).float())


def test_default_changes_nothing():
    layer = nn.Linear(5, 3)
    before = layer.weight.detach().clone()
    assert initialize(layer, "default", 0) == ()
    assert torch.equal(layer.weight, before)


LAYERS = {
    "wide": (lambda: nn.Linear(7, 4), lambda w: [w]),
    "tall": (lambda: nn.Linear(4, 7), lambda w: [w]),
    "convolution": (lambda: nn.Conv2d(3, 8, 3), lambda w: [w.flatten(1)]),
    "groups": (lambda: nn.Conv2d(6, 8, 3, groups=2), lambda w: list(w.flatten(1).chunk(2))),
    "transposed": (lambda: nn.ConvTranspose1d(4, 6, 3), lambda w: [w.flatten(1)]),
    "gates": (lambda: nn.GRUCell(5, 3), lambda w: list(w.chunk(3))),
    "stack": (lambda: nn.Bilinear(4, 3, 5), lambda w: list(w)),
}


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("kind", LAYERS)
def test_orthogonal_matrices_have_one_singular_value(kind, scale):
    make, matrices = LAYERS[kind]
    layer = make().double()
    (name, *_) = initialize(layer, f"orthogonal:{scale}", 0)
    for matrix in matrices(layer.get_parameter(name).detach()):
        values = torch.linalg.svdvals(matrix)
        assert torch.allclose(values, torch.full_like(values, scale), rtol=1e-12)


def test_orthogonal_matrices_are_drawn_uniformly():
    # the mean of an entry of a uniform orthogonal matrix is 0, of its square 1/n: without the
    # signs of R, the first entry would always have the same one
    first = []
    for seed in range(400):
        layer = nn.Linear(3, 3)
        initialize(layer, "orthogonal", seed)
        first.append(layer.weight[0, 0].item())
    values = torch.tensor(first)
    assert abs(values.mean().item()) < 5 * values.std().item() / 20
    assert values.square().mean().item() == pytest.approx(1 / 3, rel=0.2)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_scale_multiplies_every_matrix(scheme):
    def drawn(init):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(5, 3), nn.Embedding(4, 3), nn.LSTM(3, 2))
        initialize(module, init, 1)
        return dict(module.named_parameters())

    plain, scaled = drawn(scheme), drawn(f"{scheme}:0.25")
    for name, weight in plain.items():
        factor = 0.25 if name.partition(".")[2].startswith("weight") and "1." not in name else 1.0
        assert torch.allclose(scaled[name], factor * weight, rtol=1e-6), name


def test_what_is_called_a_bias_is_none():
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.Parameter(torch.zeros(4, 30, 200))
            self.up_bias = nn.Parameter(torch.zeros(4, 200))
            self.relative_bias_table = nn.Parameter(torch.zeros(9, 2))

    experts = Experts()
    assert initialize(experts, "he", 0, transposed=(Experts,)) == ("up",)
    assert deviation_is(experts.up, 2 / 30)  # 30 inputs: the stack is of transposed matrices
    assert not experts.up_bias.any()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lucky", "default, xavier, he, lecun, orthogonal"),
        ("lucky:2", "there is no initialization 'lucky'"),
        ("xavier:", "the scale '' of initialization 'xavier:' is not a positive number"),
        ("xavier:0", "not a positive number. Write, for instance, xavier:0.5"),
        ("xavier:-1", "not a positive"),
        ("xavier:nan", "not a positive"),
        ("xavier:inf", "not a positive"),
        ("xavier:two", "not a positive"),
        ("", "there is no initialization ''"),
    ],
)
def test_what_is_no_scheme(text, says):
    with pytest.raises(InputError, match=says):
        Scheme.of(text)
    with pytest.raises(InputError, match=says):
        initialize(nn.Linear(2, 2), text, 0)


def test_a_scale_of_one_is_none():
    assert Scheme.of("he:1") == Scheme.of("he")
    assert not Scheme.of("default:1.0").changes
    assert Scheme.of("default:2").changes
