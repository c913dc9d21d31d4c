"""The refined loss and its temperature, of one set of rows or a stack of sets."""

import math

import numpy as np
import pytest
from helpers import draw_logits
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, logsumexp

from sksmooth._refine import refine

seeds = st.integers(0, 10_000)
scales = st.floats(-6, 6).map(lambda exponent: 10.0**exponent)


@given(
    st.lists(
        st.tuples(*[st.floats(-1e150, 1e150, allow_subnormal=True)] * 3, st.integers(0, 2)),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from([0.0, 1.0]),
)
def test_any_finite_logits_give_a_finite_temperature_and_log_loss(rows, prior_strength):
    logits, y = np.array([row[:3] for row in rows]), np.array([row[3] for row in rows])
    beta, loss, bound = refine(logits, y, prior_strength=prior_strength)
    assert 0 < beta < math.inf
    assert 0 <= loss < math.inf
    assert bound in (-1, 0, 1)


def test_each_set_of_a_stack_counts_its_own_weights():
    logits, y, weight, sizes = stack_of_sets()
    weight *= np.array([1e-200, 1.0, 7.0, 1e30, 1e200])[:, None]
    stack = refine(logits, y, weight, prior_strength=1.0)
    for i, n in enumerate(sizes):
        alone = refine(logits[i, :n], y[i, :n], weight[i, :n], prior_strength=1.0)
        for together, single in zip(stack, alone, strict=True):
            np.testing.assert_allclose(together[i], single, rtol=1e-10)


def stack_of_sets():
    """Five sets of rows of different sizes, and of every outcome; padded with zero weights."""
    generator = np.random.default_rng(0)
    separable, _ = draw_logits(7, n=12)
    misleading, _ = draw_logits(8, n=15, scale=1e3)
    sets = [
        draw_logits(5, n=20, scale=1e-4),
        draw_logits(6, n=33, scale=1e4, sharpness=3),
        (separable, separable.argmax(axis=1)),
        (misleading, misleading.argmin(axis=1)),
        (np.ones((9, 3)), np.arange(9) % 3),
    ]
    logits, y, weight = np.full((5, 33, 3), 7.0), np.zeros((5, 33), int), np.zeros((5, 33))
    logits[..., 0] += 5
    for i, (z, codes) in enumerate(sets):
        logits[i, : len(z)], y[i, : len(z)] = z, codes
        weight[i, : len(z)] = generator.exponential(size=len(z))
    return logits, y, weight, [len(codes) for _, codes in sets]


@pytest.mark.parametrize("prior_strength", [0.0, 1.0])
def test_a_stack_of_sets_is_refined_as_one_by_one(prior_strength):
    logits, y, weight, sizes = stack_of_sets()
    stack = refine(logits, y, weight, prior_strength=prior_strength)
    for i, n in enumerate(sizes):
        alone = refine(logits[i, :n], y[i, :n], weight[i, :n], prior_strength=prior_strength)
        for together, single in zip(stack, alone, strict=True):
            np.testing.assert_allclose(together[i], single, rtol=1e-10)


def test_bounds_say_which_sets_have_no_optimum():
    logits, y, weight, _ = stack_of_sets()
    assert refine(logits, y, weight).bound.tolist() == [0, 0, 1, -1, 0]
    assert refine(logits, y, weight, prior_strength=1.0).bound.tolist() == [0, 0, 0, -1, 0]


def test_stacks_may_have_more_than_one_axis():
    logits, y, weight, _ = stack_of_sets()
    flat = refine(logits[:4], y[:4], weight[:4])
    square = refine(*(part[:4].reshape(2, 2, *part.shape[1:]) for part in (logits, y, weight)))
    for one, other in zip(flat, square, strict=True):
        np.testing.assert_array_equal(one.reshape(2, 2), other)


def test_refined_loss_is_the_log_loss_of_the_labels_at_that_temperature():
    logits, y = draw_logits(9)
    weight = np.random.default_rng(9).exponential(size=len(y))
    for prior_strength in (0.0, 5.0):
        beta, loss, _ = refine(logits, y, weight, prior_strength=prior_strength)
        own = log_softmax(beta * logits, axis=1)[np.arange(len(y)), y]
        assert loss == pytest.approx(-np.average(own, weights=weight), rel=1e-12)


@given(seeds, scales)
def test_refined_loss_is_no_higher_than_the_loss(seed, scale):
    logits, y = draw_logits(seed, scale=scale)
    loss = (logsumexp(logits, axis=1) - logits[np.arange(len(y)), y]).mean()
    assert refine(logits, y).log_loss <= min(loss, np.log(3)) + 1e-4


@given(seeds, st.floats(-9, 9))
def test_the_start_does_not_change_the_answer(seed, exponent):
    logits, y = draw_logits(seed)
    expected = refine(logits, y, prior_strength=1.0)
    started = refine(logits, y, prior_strength=1.0, start=10.0**exponent)
    for one, other in zip(started, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)


def test_each_set_of_a_stack_has_its_own_start():
    logits, y, weight, _ = stack_of_sets()
    expected = refine(logits, y, weight)
    again = refine(logits, y, weight, start=expected.inverse_temperature * [1, 0.9, 1, 3, 1])
    for one, other in zip(again, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)
