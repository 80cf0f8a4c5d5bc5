"""The specs of blockframe-nn: networks, settings, data."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import blockframe_nn
from blockframe.data import Dataset, Samples
from blockframe.errors import InputError, SpecError
from blockframe.problem import Problem, Request
from blockframe_nn import SPECS, blockframe_datasets, blockframe_resolve
from blockframe_nn.activations import ACTIVATIONS


def resolve(spec: str, **request) -> Problem:
    problem = blockframe_resolve(spec, Request(**request))
    assert problem is not None
    return problem


def output(problem: Problem) -> torch.Tensor:
    with torch.no_grad():
        return problem.module(*problem.inputs)


def settings(**values) -> dict:
    return {"settings": values}


DRAWN = "weights drawn at random (default, seed 0)"


class TestEverySpec:
    @pytest.mark.parametrize("spec", SPECS)
    def test_digits_are_classified(self, spec):
        problem = resolve(spec)
        assert problem.loss == "ce"
        assert output(problem).shape == (128, 10)
        assert problem.targets.shape == (128,)
        assert problem.spec == spec
        assert "digits" in problem.data
        assert "128 of 1,797" in problem.data

    @pytest.mark.parametrize("spec", SPECS)
    def test_it_is_small_but_has_a_parameter_for_every_output(self, spec):
        assert 128 * 10 <= resolve(spec).parameters <= 10_000

    @pytest.mark.parametrize("spec", SPECS)
    def test_blocks_stand_in_layers(self, spec):
        problem = resolve(spec, settings={"depth": 3})
        assert len(problem.module.layers) == 3

    @pytest.mark.parametrize("spec", SPECS)
    def test_every_parameter_is_trained(self, spec):
        problem = resolve(spec)
        output(problem)
        loss = torch.nn.functional.cross_entropy(problem.module(*problem.inputs), problem.targets)
        loss.backward()
        assert all(p.grad is not None and p.grad.any() for p in problem.module.parameters())

    @pytest.mark.parametrize("spec", SPECS)
    def test_the_seed_decides(self, spec):
        first, again, other = (output(resolve(spec, seed=seed)) for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_the_global_seed_is_left_alone(self):
        torch.manual_seed(0)
        expected = torch.rand(1)
        torch.manual_seed(0)
        resolve("mlp", seed=3)
        assert torch.equal(torch.rand(1), expected)

    @pytest.mark.parametrize("scheme", ["xavier", "he", "lecun"])
    def test_init(self, scheme):
        plain, drawn = resolve("mlp"), resolve("mlp", init=scheme)
        assert not torch.equal(plain.module.head.weight, drawn.module.head.weight)
        assert torch.equal(plain.module.head.bias, drawn.module.head.bias)

    def test_another_spec_is_left_to_others(self):
        assert blockframe_resolve("gpt2", Request()) is None


class TestSettings:
    @pytest.mark.parametrize("activation", ACTIVATIONS)
    @pytest.mark.parametrize("spec", ["mlp", "cnn", "transformer"])
    def test_every_activation(self, spec, activation):
        problem = resolve(spec, settings={"activation": activation}, samples=3)
        assert output(problem).isfinite().all()
        kind = type(ACTIVATIONS[activation]())
        assert any(isinstance(m, kind) for m in problem.module.modules())

    @pytest.mark.parametrize(
        ("spec", "values"),
        [
            ("mlp", {"width": 7, "depth": 4, "bias": False}),
            ("mlp", {"residual": True, "norm": "layer"}),
            ("cnn", {"channels": 3, "depth": 5, "pooling": "max", "bias": False}),
            ("rnn", {"width": 7, "depth": 2, "activation": "relu", "bias": False}),
            ("lstm", {"width": 7, "depth": 2, "bias": False}),
            ("gru", {"width": 7, "depth": 2, "bias": False}),
            ("transformer", {"width": 6, "heads": 3, "ratio": 1, "norm": "post", "bias": False}),
        ],
    )
    def test_others(self, spec, values):
        assert output(resolve(spec, settings=values)).shape == (128, 10)

    def test_a_residual_layer_adds_its_input(self):
        layer = resolve("mlp", **settings(residual=True)).module.layers[0]
        torch.nn.init.zeros_(layer.project.weight)
        torch.nn.init.zeros_(layer.project.bias)
        z = torch.randn(2, 32)
        assert torch.equal(layer(z), z)

    def test_attention_is_that_of_torch(self):
        attention = resolve("transformer").module.layers[0].attention
        theirs = torch.nn.MultiheadAttention(16, 2, batch_first=True)
        ours = (attention.query, attention.key, attention.value)
        with torch.no_grad():
            theirs.in_proj_weight.copy_(torch.cat([linear.weight for linear in ours]))
            theirs.in_proj_bias.copy_(torch.cat([linear.bias for linear in ours]))
            theirs.out_proj.load_state_dict(attention.project.state_dict())
            z = torch.randn(2, 8, 16)
            assert torch.allclose(attention(z), theirs(z, z, z)[0], atol=1e-6)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"widht": 3}, "no setting 'widht'. Did you mean width"),
            ({"zzz": 3}, "no setting 'zzz'. It has width, depth, [a-z, ]*norm.$"),
            ({"activation": "relo"}, "activation cannot be 'relo'. It must be one of tanh"),
            ({"width": 0}, "width cannot be 0. It must be a whole number from 1 on"),
            ({"width": 2.5}, r"width cannot be 2.5"),
            ({"width": True}, "width cannot be True"),
            ({"bias": 1}, "bias cannot be 1. It must be true or false"),
            ({"activation": ["relu"]}, "activation cannot be"),
        ],
    )
    def test_what_cannot_be_set(self, values, message):
        with pytest.raises(SpecError, match=message):
            resolve("mlp", settings=values)

    def test_heads_must_divide_the_width(self):
        with pytest.raises(SpecError, match="width of 16 cannot be split into 3 heads"):
            resolve("transformer", **settings(heads=3))


class TestData:
    @pytest.mark.parametrize("spec", ["mlp", "rnn", "lstm", "gru", "transformer"])
    def test_diabetes_is_regression(self, spec):
        problem = resolve(spec, data="diabetes")
        assert problem.loss == "mse"
        assert output(problem).shape == problem.targets.shape == (128, 1)

    def test_diabetes_is_no_image(self):
        with pytest.raises(InputError, match=r"cnn needs images.*\(128, 10\)"):
            resolve("cnn", data="diabetes")

    def test_an_image_is_no_sequence_with_channels(self, tmp_path):
        np.savez(tmp_path / "a.npz", x=np.ones((2, 3, 4, 4)), y=np.arange(2))
        with pytest.raises(InputError, match="lstm needs sequences"):
            resolve("lstm", data=str(tmp_path / "a.npz"))

    @pytest.mark.parametrize("spec", SPECS)
    def test_random(self, spec):
        problem = resolve(spec, data="random", samples=5, seed=1)
        assert output(problem).shape == (5, 10)
        assert problem.data == (
            "random, normal, ten classes, 5 of 128 samples; "
            "weights drawn at random (default, seed 1)"
        )

    @pytest.mark.parametrize("shape", [(6, 8, 8), (6, 2, 5, 3)])
    def test_a_file(self, tmp_path, shape):
        np.savez(tmp_path / "a.npz", x=np.ones(shape), y=np.arange(6) % 3)
        problem = resolve("cnn", data=str(tmp_path / "a.npz"))
        assert output(problem).shape == (6, 3)
        assert problem.data == f"arrays of a.npz; {DRAWN}"

    def test_a_data_set_of_another_plugin(self):
        mine = Dataset("mine", "my own", lambda: Samples(np.eye(3), np.ones((3, 2))))
        problem = resolve("mlp", data="mine", datasets={"mine": mine})
        assert output(problem).shape == problem.targets.shape == (3, 2)
        assert problem.data == f"my own; {DRAWN}"

    def test_few_samples_keep_all_classes(self):
        assert output(resolve("mlp", samples=2)).shape == (2, 10)

    def test_classes_as_one_hot_vectors(self):
        problem = resolve("mlp", loss="mse")
        assert problem.loss == "mse"
        assert torch.equal(problem.targets.argmax(dim=1), resolve("mlp").targets)
        assert torch.equal(problem.targets.sum(dim=1), torch.ones(128))

    def test_real_targets_have_no_cross_entropy(self):
        with pytest.raises(InputError, match="cross-entropy needs classes"):
            resolve("mlp", data="diabetes", loss="ce")

    def test_a_loss_of_another_plugin_is_passed_on(self):
        assert resolve("mlp", loss="hinge").loss == "hinge"

    def test_more_samples_than_there_are(self):
        with pytest.raises(InputError, match="from 1 to 1797"):
            resolve("mlp", samples=1798)

    def test_text_is_for_language_models(self, tmp_path):
        (tmp_path / "a.txt").write_text("hello")
        with pytest.raises(InputError, match="this model reads arrays"):
            resolve("mlp", data=str(tmp_path / "a.txt"))


def test_the_data_sets_are_real_and_have_no_two_equal_inputs():
    digits, diabetes = (dataset.samples() for dataset in blockframe_datasets())
    assert digits.x.shape == (1797, 8, 8)
    assert digits.classes == 10
    assert (digits.x.min(), digits.x.max()) == (0, 1)
    assert diabetes.x.shape == (442, 10)
    assert np.allclose(diabetes.x.mean(axis=0), 0)
    assert np.allclose(diabetes.y.std(), 1)
    for samples in (digits, diabetes):
        assert len(np.unique(samples.x.reshape(len(samples.x), -1), axis=0)) == len(samples.x)


def test_names_are_cheap():
    code = (
        "import sys, blockframe_nn as p; p.blockframe_specs(); p.blockframe_datasets();"
        "sys.exit('torch' in sys.modules or 'sklearn' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert blockframe_nn.blockframe_specs() == SPECS
