"""Weight matrices drawn anew."""

import math

import pytest
import torch
from torch import nn

from blockframe.errors import InputError
from blockframe.initialize import VARIANCES, initialize


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


def test_an_unknown_scheme_names_those_there_are():
    with pytest.raises(InputError, match="default, xavier, he, lecun"):
        initialize(nn.Linear(2, 2), "orthogonal", 0)
