"""The order in which rows come: batches of whole images' questions."""

from collections import Counter

import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader, skip_first_batches

from mmjepa.data.sampling import ImageGroupedSampler


@pytest.fixture(scope="module")
def image_ids():
    """1,000 questions about 130 images, as unevenly as PathVQA's and in no order."""
    return np.random.default_rng(0).geometric(1 / 7.7, 1000).cumsum() % 130


def batches_of(order: list[int], batch_size: int) -> list[list[int]]:
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


@pytest.mark.parametrize(("batch_size", "questions_per_image"), [(16, 8), (16, 1), (4, 8), (7, 3), (2000, 8)])
def test_every_question_comes_once_an_epoch(image_ids, batch_size, questions_per_image):
    sampler = ImageGroupedSampler(image_ids, batch_size, questions_per_image, seed=0)
    for epoch in range(2):
        sampler.set_epoch(epoch)
        assert sorted(sampler) == list(range(len(sampler))) == list(range(1000))


def test_order_is_decided_by_seed_and_epoch(image_ids):
    def order(seed, epoch):
        sampler = ImageGroupedSampler(image_ids, 16, 8, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(3, 1) == order(3, 1)
    assert len({tuple(order(seed, epoch)) for seed in (3, 4) for epoch in (0, 1)}) == 4


def test_batches_hold_few_images_and_of_none_more_than_its_share(image_ids):
    batches = batches_of(list(ImageGroupedSampler(image_ids, 16, 8, seed=0)), 16)
    images = [Counter(image_ids[rows].tolist()) for rows in batches]
    # 130 images of about 7.7 questions fill 63 batches: two to three images in most of them.
    assert np.mean([len(counts) for counts in images]) < 3.5
    # Only a batch that got two groups of one image has more than 8 of its questions.
    assert np.mean([max(counts.values()) <= 8 for counts in images]) > 0.8


def test_groups_that_fit_a_batch_are_not_split():
    image_ids = np.repeat(np.arange(40), 5)
    batches = batches_of(list(ImageGroupedSampler(image_ids, 15, 5, seed=0)), 15)
    assert all(set(Counter(image_ids[rows].tolist()).values()) == {5} for rows in batches)


def test_other_questions_of_an_image_stand_together_in_another_epoch():
    sampler = ImageGroupedSampler(np.repeat(np.arange(5), 16), 8, 8, seed=0)
    together = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        together.append({frozenset(rows) for rows in batches_of(list(sampler), 8)})
    assert not together[0] & together[1]


@pytest.mark.parametrize("weights", [(1, 0.5), (2, 1), (0.25, 2.5), (0.001, 1)])
def test_rows_come_as_often_as_their_weight_says(image_ids, weights):
    of_first = image_ids < 100
    row_weights = np.where(of_first, *weights)
    sampler = ImageGroupedSampler(image_ids, 16, 8, seed=0, weights=row_weights)
    times = []
    for epoch in range(40):
        sampler.set_epoch(epoch)
        rows = list(sampler)
        assert len(rows) == len(sampler)
        times.append(np.bincount(rows, minlength=1000))
        for weight, own in zip(weights, (of_first, ~of_first), strict=True):
            assert set(times[-1][own]) <= {int(weight), int(np.ceil(weight))}
            assert times[-1][own].sum() == int(weight) * own.sum() + round(weight % 1 * own.sum())
    for weight, own in zip(weights, (of_first, ~of_first), strict=True):
        assert np.mean(times, axis=0)[own] == pytest.approx(weight, abs=0.35)  # each row in its turn


def test_a_share_of_the_rows_is_of_whole_images(image_ids):
    rows = list(ImageGroupedSampler(image_ids, 16, 8, seed=0, weights=np.full(1000, 0.5)))
    drawn, all_rows = Counter(image_ids[rows].tolist()), Counter(image_ids.tolist())
    assert sum(number < all_rows[image] for image, number in drawn.items()) <= 1


def test_one_question_per_image_is_a_plain_shuffle(image_ids):
    order = list(ImageGroupedSampler(image_ids, 16, 1, seed=0))
    images = [len(set(image_ids[rows].tolist())) for rows in batches_of(order, 16)]
    rng = np.random.default_rng(1)
    shuffled = [len(set(rng.permutation(image_ids)[:16].tolist())) for _ in range(1000)]
    assert np.mean(images) == pytest.approx(np.mean(shuffled), abs=0.4)
    assert abs(np.corrcoef(order, range(1000))[0, 1]) < 0.1


def prepared_loader(image_ids, num_processes: int, process: int):
    """The Trainer's loader of row numbers, as accelerate prepares it for one of several processes."""
    sampler = ImageGroupedSampler(image_ids, 8, 8, seed=0)
    loader = torch.utils.data.DataLoader(list(range(len(image_ids))), batch_size=8, sampler=sampler)
    return prepare_data_loader(
        loader, num_processes=num_processes, process_index=process, put_on_device=False, rng_types=None
    )


def epoch_rows(loader, epoch: int) -> list[list[int]]:
    loader.set_epoch(epoch)
    return [batch.tolist() for batch in loader]


def test_accelerates_loader_gets_another_order_each_epoch_and_skips_exactly(image_ids):
    loader = prepared_loader(image_ids, 1, 0)
    first, second = epoch_rows(loader, 0), epoch_rows(loader, 1)
    assert first != second and len(second) == 125
    resumed = skip_first_batches(prepared_loader(image_ids, 1, 0), 50)
    assert epoch_rows(resumed, 1) == second[50:]


def test_two_processes_share_the_batches_of_one(image_ids):
    one = epoch_rows(prepared_loader(image_ids[:992], 1, 0), 1)
    shares = [epoch_rows(prepared_loader(image_ids[:992], 2, process), 1) for process in range(2)]
    assert [batch for step in zip(*shares, strict=True) for batch in step] == one
