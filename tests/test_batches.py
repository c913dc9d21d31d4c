import copy
import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from sksmooth._batches import (
    FEWEST_HELD_OUT,
    INDICES_AT_ONCE,
    Batch,
    EncodedDataset,
    ShuffledIndices,
    TensorBatches,
    TensorRows,
    has_weights,
    hold_out,
    make_batches,
    merge_repeated,
    read_labels,
    rows_in_memory,
)


def numbered_rows(n, weighted=False):
    """Rows whose features, label and weight all tell the row's number."""
    number = torch.arange(n)
    return TensorRows(
        torch.stack([number.float(), -number.float()], dim=1),
        number,
        number / 10 if weighted else None,
    )


class Squares(Dataset):
    """Computes its rows, so that no index is out of range."""

    def __init__(self, n, label=lambda index: "even" if index % 2 == 0 else "odd"):
        self.n = n
        self.label = label

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        return torch.tensor([float(index) ** 2]), self.label(index)


class Stream(IterableDataset):
    def __iter__(self):
        yield from ((torch.tensor([float(i)]), i % 3) for i in range(7))


# Batch


def test_batch_unpacks_to_two_and_carries_the_weights():
    X, y, weight = torch.zeros(3, 2), torch.arange(3), torch.ones(3)
    batch = Batch(X, y, weight)
    first, second = batch
    assert first is X
    assert second is y
    assert batch.sample_weight is weight
    assert len(batch) == 2
    assert isinstance(batch, tuple)
    assert Batch(X, y).sample_weight is None


@pytest.mark.parametrize("weight", [None, torch.tensor([0.5, 2.0])])
@pytest.mark.parametrize(
    "copied",
    [
        copy.copy,
        copy.deepcopy,
        *(
            lambda batch, protocol=protocol: pickle.loads(pickle.dumps(batch, protocol))
            for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)
        ),
    ],
)
def test_batch_survives_copy_and_pickle(copied, weight):
    again = copied(Batch(torch.ones(2, 3), torch.tensor([0, 1]), weight))
    assert type(again) is Batch
    torch.testing.assert_close(tuple(again), (torch.ones(2, 3), torch.tensor([0, 1])))
    assert (again.sample_weight is None) == (weight is None)
    if weight is not None:
        torch.testing.assert_close(again.sample_weight, weight)


# TensorRows


def test_rows_are_a_dataset_of_pairs():
    rows = numbered_rows(4)
    X, y = rows[2]
    assert X.tolist() == [2.0, -2.0]
    assert y == 2
    assert len(rows) == 4


def test_take_keeps_order_repeats_and_weights():
    taken = numbered_rows(6, weighted=True).take([5, 0, 5])
    assert isinstance(taken, TensorRows)
    assert taken.y.tolist() == [5, 0, 5]
    assert taken.X[:, 0].tolist() == [5.0, 0.0, 5.0]
    torch.testing.assert_close(taken.sample_weight, torch.tensor([0.5, 0.0, 0.5]))


def test_take_accepts_arrays_and_tensors():
    rows = numbered_rows(6)
    for index in (np.array([1, 4]), torch.tensor([1, 4]), [1, 4]):
        assert rows.take(index).y.tolist() == [1, 4]


def test_whoever_writes_to_a_batch_does_not_write_to_the_rows():
    rows = numbered_rows(6)
    before = rows.X.clone()
    for X, _ in TensorBatches(rows, batch_size=3):
        X.fill_(torch.nan)
    assert torch.equal(rows.X, before)


# TensorBatches


@given(st.integers(1, 60), st.integers(1, 70), st.booleans(), st.booleans())
def test_a_pass_covers_every_row_once(n, batch_size, shuffle, weighted):
    batches = TensorBatches(numbered_rows(n, weighted), batch_size, shuffle=shuffle)
    passed = list(batches)
    assert len(passed) == len(batches)
    assert sorted(torch.cat([y for _, y in passed]).tolist()) == list(range(n))
    sizes = [len(y) for _, y in passed]
    assert sizes[:-1] == [batch_size] * (len(sizes) - 1)
    assert 1 <= sizes[-1] <= batch_size


@given(st.integers(1, 60), st.integers(1, 70), st.booleans())
def test_drop_last_leaves_out_only_a_batch_that_is_not_full(n, batch_size, shuffle):
    batches = TensorBatches(numbered_rows(n), batch_size, shuffle=shuffle, drop_last=True)
    sizes = [len(y) for _, y in batches]
    assert sizes == [batch_size] * (n // batch_size)
    assert len(batches) == len(sizes)


@pytest.mark.parametrize("shuffle", [False, True])
def test_features_labels_and_weights_travel_together(shuffle):
    for batch in TensorBatches(numbered_rows(23, weighted=True), 5, shuffle=shuffle):
        X, y = batch
        torch.testing.assert_close(X, torch.stack([y, -y], dim=1).float())
        torch.testing.assert_close(batch.sample_weight, y / 10)


def test_unweighted_rows_give_unweighted_batches():
    assert [batch.sample_weight for batch in TensorBatches(numbered_rows(4), 2)] == [None, None]


def test_rows_stay_in_order_without_shuffle():
    batches = TensorBatches(numbered_rows(10), 4)
    assert [y.tolist() for _, y in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_shuffle_is_new_each_pass_and_reproducible_by_the_seed():
    batches = TensorBatches(numbered_rows(50), 8, shuffle=True)

    def order():
        return torch.cat([y for _, y in batches]).tolist()

    with torch.random.fork_rng():
        torch.manual_seed(3)
        first, second = order(), order()
        torch.manual_seed(3)
        assert [order(), order()] == [first, second]
        torch.manual_seed(4)
        assert order() != first
    assert first != second
    assert first != sorted(first)


def test_drop_last_with_one_full_batch_drops_other_rows_each_pass():
    batches = TensorBatches(numbered_rows(9), 6, shuffle=True, drop_last=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kept = [y.tolist() for _ in range(20) for _, y in batches]
    assert set().union(*kept) == set(range(9))


@pytest.mark.parametrize("batch_size", [10, 11, -1])
def test_a_single_batch_of_all_rows_is_not_shuffled(batch_size):
    before = torch.get_rng_state()
    ((_, y),) = TensorBatches(numbered_rows(10), batch_size, shuffle=True)
    assert y.tolist() == list(range(10))
    assert torch.equal(torch.get_rng_state(), before)


def test_without_shuffle_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    list(TensorBatches(numbered_rows(10), 4))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_stay_on_the_rows_device(shuffle):
    rows = TensorRows(torch.zeros(9, 2, device="cuda"), torch.zeros(9, device="cuda").long())
    assert {X.device.type for X, _ in TensorBatches(rows, 4, shuffle=shuffle)} == {"cuda"}


# make_batches


def test_rows_in_memory_are_batched_in_memory():
    batches = make_batches(numbered_rows(10), 4, shuffle=True, drop_last=True)
    assert isinstance(batches, TensorBatches)
    assert (batches.batch_size, batches.shuffle, batches.drop_last) == (4, True, True)


def test_a_subset_of_a_subset_is_batched_in_memory_with_its_weights():
    outer = Subset(Subset(numbered_rows(10, weighted=True), [9, 7, 5, 3, 1]), np.array([0, 4, 2]))
    batches = make_batches(outer, 2)
    assert isinstance(batches, TensorBatches)
    assert [y.tolist() for _, y in batches] == [[9, 1], [5]]
    weights = torch.cat([batch.sample_weight for batch in batches])
    torch.testing.assert_close(weights, torch.tensor([0.9, 0.1, 0.5]))


class Doubled(Subset):
    """A user's own Subset, as those that augment rows."""

    def __getitem__(self, index):
        X, y = super().__getitem__(index)
        return 2 * X, y

    def __getitems__(self, indices):
        return [self[index] for index in indices]


@pytest.mark.parametrize("wrap", [lambda rows: rows, lambda rows: Subset(rows, range(3))])
def test_a_subset_of_a_users_class_gives_what_the_user_wrote(wrap):
    batches = make_batches(wrap(Doubled(numbered_rows(10), [4, 2, 3])), 2)
    assert torch.cat([X[:, 0] for X, _ in batches]).tolist() == [8, 4, 6]


def test_weights_are_found_in_whatever_wraps_the_rows():
    for weighted in (True, False):
        rows = numbered_rows(5, weighted=weighted)
        for wrapped in (rows, Subset(rows, [1]), Doubled(Subset(rows, [1, 2]), [0])):
            assert has_weights(wrapped) == weighted
    assert not has_weights(Squares(5, label=int))


def test_the_same_rows_come_out_of_memory_and_of_a_dataloader():
    subset = Subset(numbered_rows(10), [8, 2, 6, 4, 0])
    in_memory = make_batches(subset, 2)
    loaded = make_batches(subset, 2, num_workers=0)
    assert isinstance(loaded, DataLoader)
    for ours, theirs in zip(in_memory, loaded, strict=True):
        torch.testing.assert_close(list(ours), list(theirs))


def test_workers_ask_for_a_dataloader():
    loader = make_batches(numbered_rows(10), 4, shuffle=True, drop_last=True, num_workers=1)
    assert isinstance(loader, DataLoader)
    assert (loader.num_workers, loader.drop_last, len(loader)) == (1, True, 2)
    assert isinstance(loader.sampler, ShuffledIndices)


def test_a_foreign_dataset_goes_through_a_dataloader():
    for dataset in (Squares(5, label=int), Subset(Squares(9, label=int), range(5))):
        assert rows_in_memory(dataset)[0] is None
        loader = make_batches(dataset, 2)
        assert isinstance(loader, DataLoader)
        assert [y.tolist() for _, y in loader] == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("dataset", [numbered_rows(7), Squares(7, label=int)])
def test_a_batch_size_of_minus_one_takes_all_rows_at_once(dataset):
    batches = make_batches(dataset, -1)
    assert batches.batch_size == 7
    assert [y.tolist() for _, y in batches] == [list(range(7))]


def test_an_iterable_dataset_is_not_shuffled():
    loader = make_batches(Stream(), 3, shuffle=True)
    assert isinstance(loader, DataLoader)
    assert [X.flatten().tolist() for X, _ in loader] == [[0, 1, 2], [3, 4, 5], [6]]


def test_a_sampler_takes_the_place_of_shuffling():
    loader = make_batches(numbered_rows(4), 2, shuffle=True, sampler=[3, 1, 2, 0])
    assert [y.tolist() for _, y in loader] == [[3, 1], [2, 0]]


def test_shuffled_indices_are_each_row_once_in_a_new_order():
    indices = ShuffledIndices(2 * INDICES_AT_ONCE + 3)
    first, second = list(indices), list(indices)
    assert sorted(first) == sorted(second) == list(range(len(indices)))
    assert first != second


def test_batches_of_chosen_rows_do_not_copy_the_others():
    rows = numbered_rows(10, weighted=True)
    batches = TensorBatches(rows, 2, chosen=torch.tensor([9, 1, 5]))
    assert batches.rows is rows
    assert [y.tolist() for _, y in batches] == [[9, 1], [5]]
    shuffled = TensorBatches(rows, 2, shuffle=True, chosen=torch.tensor([9, 1, 5]))
    assert sorted(y for _, labels in shuffled for y in labels.tolist()) == [1, 5, 9]


# merge_repeated


@given(st.integers(0, 999), st.integers(1, 40), st.booleans())
def test_merged_rows_are_distinct_and_keep_their_total_weight(seed, n, weighted):
    rng = np.random.default_rng(seed)
    X, y = torch.from_numpy(rng.integers(2, size=(n, 2, 2))).float(), rng.integers(3, size=n)
    weight = rng.integers(5, size=n) if weighted else np.ones(n, int)
    rows = TensorRows(
        X, torch.from_numpy(y), torch.from_numpy(weight).float() if weighted else None
    )

    expected = Counter()
    for x, label, w in zip(X, y, weight, strict=True):
        expected[(*x.flatten().tolist(), int(label))] += int(w)
    merged = merge_repeated(rows)
    keys = [(*x.flatten().tolist(), int(label)) for x, label in zip(*merged[:], strict=True)]
    assert sorted(keys) == sorted(expected)
    if merged.sample_weight is None:
        assert len(set(expected.values())) == 1
    else:
        assert merged.sample_weight.tolist() == [expected[key] for key in keys]


def test_merged_rows_do_not_depend_on_the_order_or_on_how_weight_is_given():
    X, y = torch.tensor([[3.0, 1.0], [0.0, 2.0], [0.0, 2.0]]), torch.tensor([1, 0, 1])
    rows = TensorRows(X, y, torch.tensor([2.0, 1.0, 3.0]))
    order = [2, 0, 2, 1, 0, 2]
    for other in (TensorRows(X, y).take(order), rows.take([2, 1, 0])):
        for one, same in zip(merge_repeated(rows)[:], merge_repeated(other)[:], strict=True):
            assert torch.equal(one, same)
        assert torch.equal(merge_repeated(rows).sample_weight, merge_repeated(other).sample_weight)


def test_rows_of_one_input_and_two_labels_stay_apart():
    merged = merge_repeated(TensorRows(torch.zeros(4, 2), torch.tensor([1, 0, 1, 0])))
    assert merged.y.tolist() == [0, 1]
    assert merged.sample_weight is None


# hold_out


@given(
    st.integers(1, 400),
    st.integers(1, 50),
    st.floats(0.01, 0.99),
    st.integers(0, 99),
    st.booleans(),
)
def test_train_and_held_out_rows_are_disjoint_and_complete(n, n_classes, fraction, seed, labelled):
    y = np.random.default_rng(seed).integers(n_classes, size=n) if labelled else None
    train, held_out = hold_out(n, y, fraction, seed)
    most = n if y is None else n - len(np.unique(y))  # every class keeps a row to train on
    n_held_out = min(int(fraction * n + 1e-9), most)
    if n_held_out < FEWEST_HELD_OUT:
        assert held_out is None
        assert train.tolist() == list(range(n))
    else:
        assert len(held_out) == n_held_out
        assert sorted([*train, *held_out]) == list(range(n))
        if y is not None:
            assert set(y[train]) == set(y)


def test_held_out_rows_have_the_shares_of_the_classes():
    y = np.repeat([0, 1, 2], [100, 60, 40])
    train, held_out = hold_out(200, y, 0.2, seed=0)
    assert np.bincount(y[held_out]).tolist() == [20, 12, 8]
    assert np.bincount(y[train]).tolist() == [80, 48, 32]


@pytest.mark.parametrize("seed", range(5))
def test_classes_of_a_single_row_stay_in_training(seed):
    y = np.repeat([0, 1, 2, 3, 4], [1, 50, 1, 48, 1])
    train, held_out = hold_out(len(y), y, 0.2, seed)
    assert not set(y[held_out]) & {0, 2, 4}
    assert {0, 2, 4} <= set(y[train])
    assert Counter(y[held_out]) == {1: 10, 3: 10}


def test_class_indices_that_do_not_occur_are_no_matter():
    y = np.repeat([2, 7], 50)
    _, held_out = hold_out(100, y, 0.2, seed=0)
    assert Counter(y[held_out]) == {2: 10, 7: 10}


def test_with_too_few_rows_to_hold_out_all_are_trained_on():
    train, held_out = hold_out(49, np.arange(49) % 2, 0.2, seed=0)
    assert held_out is None
    assert train.tolist() == list(range(49))
    assert len(hold_out(50, np.arange(50) % 2, 0.2, seed=0)[1]) == 10


def test_with_more_classes_than_rows_to_hold_out_some_classes_give_one():
    y = np.arange(100) // 2  # 50 classes of two rows
    train, held_out = hold_out(100, y, 0.2, seed=0)
    assert len(held_out) == len(set(y[held_out])) == 20
    assert set(y[held_out]) != set(range(20))  # not always the first ones
    assert sorted([*train, *held_out]) == list(range(100))


@pytest.mark.parametrize("y", [None, np.arange(100) % 4])
def test_the_seed_decides_the_draw(y):
    first, again, other = (hold_out(100, y, 0.2, seed) for seed in (1, 1, 2))
    for one, same, different in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(one, same)
        assert set(one) != set(different)


def test_the_draw_leaves_numpys_global_generator_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    hold_out(100, np.arange(100) % 4, 0.2, seed=0)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


# read_labels


class WithTargets(Squares):
    def __init__(self, labels=(2, 0, 1, 0), **attributes):
        super().__init__(len(labels), label=self.read)
        self.labels, self.n_read = labels, 0
        self.__dict__.update(attributes)

    def read(self, index):
        self.n_read += 1
        return self.labels[index]


@pytest.mark.parametrize(
    "dataset",
    [
        TensorRows(torch.zeros(4, 2), torch.tensor([2, 0, 1, 0])),
        TensorDataset(torch.zeros(4, 2), torch.tensor([2, 0, 1, 0])),
        WithTargets(y=[2, 0, 1, 0]),
        WithTargets(targets=np.array([2, 0, 1, 0])),
        WithTargets(y=None, targets=[2, 0, 1, 0]),
        Squares(4, label=[2, 0, 1, 0].__getitem__),
        Squares(4, label=torch.tensor([2, 0, 1, 0]).__getitem__),
    ],
    ids=["TensorRows", "TensorDataset", "y", "targets", "y is None", "rows", "rows of tensors"],
)
def test_labels_are_read_from_every_kind_of_dataset(dataset):
    assert np.asarray(read_labels(dataset)).tolist() == [2, 0, 1, 0]
    nested = Subset(Subset(dataset, [3, 2, 0]), [2, 1])
    assert np.asarray(read_labels(nested)).tolist() == [2, 1]


def test_labels_at_hand_are_compared_with_those_of_some_rows():
    labels = np.arange(1000) % 3
    dataset = WithTargets(labels, y=labels)
    assert read_labels(dataset) is labels
    assert 0 < dataset.n_read <= 20
    other = WithTargets(labels + (np.arange(1000) > 900), y=labels)
    assert read_labels(other).tolist() == other.labels.tolist()


def test_labels_of_a_dataset_without_end_are_as_many_as_its_length():
    assert read_labels(Squares(3)).tolist() == ["even", "odd", "even"]


def test_labels_of_a_stream_are_read_once_through():
    assert read_labels(Stream()).tolist() == [0, 1, 2, 0, 1, 2, 0]


# EncodedDataset


def test_labels_are_replaced_by_their_class_indices():
    encoded = EncodedDataset(Squares(5), ["odd", "even"])
    assert len(encoded) == 5
    X, _ = encoded[3]
    assert X.tolist() == [9.0]
    assert [encoded[i][1] for i in range(5)] == [1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    "label",
    [int, np.int64, torch.tensor, np.float32, lambda i: np.array(i)],
    ids=["int", "int64", "tensor", "float32", "array"],
)
def test_labels_may_be_numbers_scalars_or_tensors(label):
    encoded = EncodedDataset(Squares(3, label=label), [2, 1, 0])
    assert [encoded[i][1] for i in range(3)] == [2, 1, 0]


def test_encoded_rows_are_collated_by_a_dataloader():
    (_, y), (_, last) = make_batches(EncodedDataset(Squares(5), ["even", "odd"]), 3)
    assert (y.tolist(), last.tolist()) == ([0, 1, 0], [1, 0])
    assert y.dtype == torch.int64


def test_an_unknown_label_names_its_row():
    encoded = EncodedDataset(Squares(5), ["even"])
    assert encoded[2][1] == 0
    with pytest.raises(ValueError, match=r"row 3 has the label 'odd', .* classes \['even'\]"):
        encoded[3]


def test_rows_chosen_are_counted_from_the_end_where_negative():
    rows = numbered_rows(5)
    X, _ = next(iter(make_batches(Subset(rows, [-1, 0]), 2)))
    assert X[:, 0].tolist() == [4, 0]
    X, _ = next(iter(make_batches(Subset(Subset(rows, [1, 2, 3]), [-1, 0]), 2)))
    assert X[:, 0].tolist() == [3, 1]


def test_of_no_rows_there_is_no_batch():
    assert list(TensorBatches(numbered_rows(0), batch_size=2)) == []
