"""Whatever draws random numbers draws those of torch.manual_seed, and torch's stay untouched."""

import copy
import threading
from contextlib import suppress

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from sksmooth.engine.randomness import (
    ForwardRandomness,
    OwnRandomness,
    lent,
    make_generator,
    single_precision,
)

X = torch.ones(6, 5)
SEQUENCE = torch.ones(2, 4, 8)


def by_layer(make, *inputs):
    """Build a layer and call it, in training mode."""

    def draw():
        return make()(*inputs)

    return draw


def recurrent():
    output, _ = nn.LSTM(8, 6, num_layers=2, dropout=0.5, batch_first=True)(SEQUENCE)
    return output


def attention():
    layer = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)
    return layer(SEQUENCE, SEQUENCE, SEQUENCE, need_weights=False)[0]


def scaled_dot_product():
    heads = SEQUENCE.reshape(2, 2, 4, 4)
    return nn.functional.scaled_dot_product_attention(heads, heads, heads, dropout_p=0.5)


DRAWS = {
    "Linear": lambda: nn.Linear(5, 4).weight,
    "Embedding": lambda: nn.Embedding(5, 4).weight,
    "orthogonal": lambda: nn.init.orthogonal_(torch.empty(4, 4)),
    "trunc_normal": lambda: nn.init.trunc_normal_(torch.empty(4, 4)),
    "Dropout": by_layer(lambda: nn.Dropout(0.4), X),
    "all dropped": by_layer(lambda: nn.Dropout(1.0), X),
    "AlphaDropout": by_layer(lambda: nn.AlphaDropout(0.4), X),
    "Dropout1d": by_layer(lambda: nn.Dropout1d(0.4), SEQUENCE),
    "RReLU": by_layer(nn.RReLU, -X),
    "native_dropout": lambda: torch.native_dropout(X, 0.4, True)[0],
    "LSTM": recurrent,
    "MultiheadAttention": attention,
    "scaled_dot_product": scaled_dot_product,
    "randperm": lambda: torch.randperm(20),
    "rand": lambda: torch.rand(5),
    "rand_like": lambda: torch.rand_like(X),
    "randn": lambda: torch.randn(20),
    "randn_like": lambda: torch.randn_like(X),
    "randint": lambda: torch.randint(0, 9, (9,)),
    "randint_like": lambda: torch.randint_like(X, 9),
    "bernoulli": lambda: torch.bernoulli(X * 0.3),
    "bernoulli_": lambda: X.clone().bernoulli_(0.3),
    "normal": lambda: torch.normal(X, 2.0),
    "normal_": lambda: X.clone().normal_(),
    "uniform_": lambda: X.clone().uniform_(),
    "exponential_": lambda: X.clone().exponential_(),
    "multinomial": lambda: torch.multinomial(X, 3),
    "poisson": lambda: torch.poisson(X * 3),
    "gumbel_softmax": lambda: nn.functional.gumbel_softmax(X),
    # These have no overload with a generator.
    "Dirichlet": lambda: torch.distributions.Dirichlet(X).sample(),
    "Gamma": lambda: torch.distributions.Gamma(X, X).sample(),
}


@pytest.mark.parametrize("name", DRAWS)
def test_draws_are_those_of_manual_seed(name):
    draw = DRAWS[name]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        expected = [draw(), draw()]
    before = torch.get_rng_state()
    with OwnRandomness(3) as randomness:
        found = [draw(), draw()]
    assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(before, torch.get_rng_state())
    if name != "all dropped":  # for which nothing need be drawn
        assert randomness.has_drawn
        assert not torch.equal(*found)


def test_what_draws_nothing_is_told_from_what_does():
    with OwnRandomness(0) as randomness:
        layer = nn.Linear(5, 4)
        assert randomness.has_drawn
        randomness.has_drawn = False
        layer(X)
        nn.Dropout(0.5).eval()(X)
    assert not randomness.has_drawn


def test_a_generator_that_is_given_is_drawn_from():
    generator = make_generator(5)
    with OwnRandomness(3) as randomness:
        own = torch.rand(4, generator=generator)
    assert torch.equal(own, torch.rand(4, generator=make_generator(5)))
    assert not randomness.has_drawn


def test_a_generator_that_is_there_goes_on():
    generator = make_generator(5)
    generator_too = make_generator(5)
    first = torch.rand(4, generator=generator)
    with OwnRandomness.of(generator):
        second = torch.rand(4)
    assert torch.equal(first, torch.rand(4, generator=generator_too))
    assert torch.equal(second, torch.rand(4, generator=generator_too))


def test_other_threads_draw_from_torchs_generator():
    drawn = []
    with torch.random.fork_rng():
        torch.manual_seed(1)
        expected = torch.rand(3)
        torch.manual_seed(1)
        with OwnRandomness(3):
            thread = threading.Thread(target=lambda: drawn.append(torch.rand(3)))
            thread.start()
            thread.join()
    assert torch.equal(drawn[0], expected)


def test_lent_generators_go_on_and_torchs_is_put_back_even_after_an_error():
    generator, before = make_generator(7), torch.get_rng_state()
    with suppress(ZeroDivisionError), lent(generator):
        first = torch.rand(3)
        raise ZeroDivisionError
    with lent(generator):
        second = torch.rand(3)
    assert torch.equal(before, torch.get_rng_state())
    expected = make_generator(7)
    assert torch.equal(first, torch.rand(3, generator=expected))
    assert torch.equal(second, torch.rand(3, generator=expected))


def is_on_during(forward, net, training=True):
    """Tell whether a mode is on in a forward pass."""
    with forward.around_forward(training):
        n_modes = torch._C._len_torch_dispatch_stack()
        net(X)
    return n_modes > 0


def test_the_mode_is_on_as_long_as_a_forward_may_draw():
    forward, plain = ForwardRandomness(OwnRandomness(0)), nn.Linear(5, 5)
    assert not is_on_during(forward, plain, training=False)
    assert [is_on_during(forward, plain) for _ in range(3)] == [True, False, False]
    forward.begin_epoch()
    assert [is_on_during(forward, plain) for _ in range(2)] == [True, False]
    forward.begin_epoch()
    assert [is_on_during(forward, nn.Dropout(0.5)) for _ in range(3)] == [True] * 3
    assert is_on_during(forward, nn.Dropout(0.5), training=False)


def test_what_a_forward_draws_is_of_ones_own_generator():
    net = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.2))
    forward, before = ForwardRandomness(OwnRandomness(4)), torch.get_rng_state()
    found = []
    for _ in range(3):
        with forward.around_forward():
            found.append(net(X))
    assert torch.equal(before, torch.get_rng_state())
    with torch.random.fork_rng():
        torch.manual_seed(4)
        assert_close(found, [net(X) for _ in range(3)])
    assert forward.randomness.has_drawn


def test_what_was_drawn_before_a_forward_is_remembered():
    randomness = OwnRandomness(0)
    with randomness:
        torch.rand(1)
    with ForwardRandomness(randomness).around_forward():
        pass
    assert randomness.has_drawn


@pytest.fixture
def double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


FLOATS = {
    "Linear": lambda: nn.Linear(2, 2).weight,
    "LSTM": lambda: nn.LSTM(2, 2).weight_hh_l0,
    "LayerNorm": lambda: nn.LayerNorm(2).weight,
    "zeros": lambda: torch.zeros(2),
    "tensor": lambda: torch.tensor([[1.0, 2]]),
    "full": lambda: torch.full((2,), 0.5),
    "arange": lambda: torch.arange(0.0, 1.0, 0.5),
    "randn": lambda: torch.randn(2),
}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", FLOATS)
def test_tensors_are_single_whatever_the_default_is(name):
    with single_precision():
        assert FLOATS[name]().dtype == torch.float32
        assert torch.get_default_dtype() == torch.float64
    assert FLOATS[name]().dtype == torch.float64


@pytest.mark.usefixtures("double")
def test_a_dtype_that_is_said_or_not_a_floats_stays():
    with suppress(ZeroDivisionError), single_precision():
        assert torch.zeros(2, dtype=torch.float64).dtype == torch.float64
        assert torch.zeros(2, out=torch.empty(2, dtype=torch.float64)).dtype == torch.float64
        assert torch.arange(3).dtype == torch.tensor([1]).dtype == torch.int64
        assert torch.tensor([True]).dtype == torch.bool
        raise ZeroDivisionError
    assert torch.zeros(2).dtype == torch.float64


@pytest.mark.usefixtures("double")
def test_seeded_nets_are_the_same_under_both_defaults():
    with OwnRandomness(0), single_precision():
        own = nn.Linear(3, 3)
    torch.set_default_dtype(torch.float32)
    with OwnRandomness(0), single_precision():
        other = nn.Linear(3, 3)
    assert torch.equal(own.weight, copy.deepcopy(other).weight)
