"""What the encoder's parts compute: means over text, the cells of an image, and where the visual tokens look."""

import pytest
import torch

from mmjepa.encoder_mmjepa import MMJepaPatchesPrefix, cell_shares, image_cells, masked_mean
from mmjepa.modeling_mmjepa import MMJepaForConditionalGeneration


def test_masked_mean_ignores_padding_and_gives_zeros_for_an_empty_row():
    states, mask = torch.randn(2, 3, 4), torch.tensor([[1, 1, 0], [0, 0, 0]])
    mean = masked_mean(states, mask)
    torch.testing.assert_close(mean[0], states[0, :2].mean(0))
    assert torch.equal(mean[1], torch.zeros(4))


def test_bfloat16_sums_keep_their_digits():
    states = torch.full((1, 1000, 1), 1.01, dtype=torch.bfloat16)
    mean = masked_mean(states, torch.ones(1, 1000))
    assert mean.dtype == torch.bfloat16 and mean.item() == states[0, 0, 0].item()


GRIDS = [(16, 16), (4, 4), (6, 9), (3, 17), (37, 37), (1, 1)]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_cells_cut_up_the_image_without_gap_or_overlap(grid):
    for count in range(1, 34):
        shares = cell_shares(image_cells(count), grid)  # (Q, P)
        num_patches = grid[0] * grid[1]
        assert shares.shape == (count, num_patches)
        torch.testing.assert_close(shares.sum(dim=1), torch.ones(count), atol=1e-4, rtol=0)
        torch.testing.assert_close(
            shares.sum(dim=0), torch.full((num_patches,), count / num_patches), atol=1e-4, rtol=0
        )


def test_cells_are_compact_and_the_longer_rows_lie_in_the_middle():
    def row_lengths(count: int) -> list[int]:
        return image_cells(count)[:, 0, 0].unique(return_counts=True)[1].tolist()

    assert row_lengths(7) == [2, 3, 2] and row_lengths(9) == [3, 3, 3] and row_lengths(15) == [4, 4, 4, 3]
    for count in range(1, 34):
        height, width = (image_cells(count)[..., 1] - image_cells(count)[..., 0]).unbind(dim=1)
        assert (height / width).max() < 3.01 and (width / height).max() < 3.01, count


@pytest.mark.parametrize("num_image_tokens", [1, *range(2, 34)])
def test_at_the_start_every_patch_is_read_whatever_the_image_shows(make_config, num_image_tokens):
    """At least half as much as if the tokens shared themselves out evenly; at every size and shape of image."""
    config = make_config(num_image_tokens=num_image_tokens, aligned_token=num_image_tokens > 1)
    prefix = MMJepaPatchesPrefix(config)
    MMJepaForConditionalGeneration(config)._init_weights(prefix)
    for grid in GRIDS:
        num_patches = grid[0] * grid[1]
        patches = 10 * torch.randn(2, num_patches, config.vision_config.hidden_size)
        read = prefix(torch.zeros(2, config.text_config.d_model), patches, grid)[1]  # (2, M, P)
        even = (num_image_tokens - config.aligned_token) / num_patches
        assert read.sum(dim=1).min() >= even / 2, grid


def test_a_visual_token_may_learn_to_look_outside_of_its_cell(make_config):
    config = make_config(num_image_tokens=4, aligned_token=False)
    prefix = MMJepaForConditionalGeneration(config).encoder.visual_prefix
    target = torch.randint(16, (8,))  # each image has its one marked patch, which every token has to find
    patches = torch.randn(8, 16, config.vision_config.hidden_size)
    patches[range(8), target, :4] += 4
    optimizer = torch.optim.Adam(prefix.parameters(), lr=0.02)
    for _ in range(60):
        read = prefix(None, patches, (4, 4))[1]  # (8, Q, P)
        (-read[range(8), :, target].log().mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert prefix(None, patches, (4, 4))[1][range(8), :, target].min() > 0.5


def test_each_visual_token_starts_reading_little_but_its_own_place(make_config):
    """Of 3 x 3 tokens over 6 x 6 patches; where they read a third elsewhere, training did not learn places."""
    config = make_config(num_image_tokens=9, aligned_token=False)
    prefix = MMJepaForConditionalGeneration(config).encoder.visual_prefix
    patches = torch.zeros(36, 36, config.vision_config.hidden_size)
    patches[range(36), range(36), :8] = 5.0  # image i has its one bright patch at patch i
    blank = prefix(None, torch.zeros_like(patches), (6, 6))[0]
    change = (prefix(None, patches, (6, 6))[0] - blank).norm(dim=-1)  # (36 images, 9 tokens)
    own = change.unflatten(0, (3, 2, 3, 2)).sum(dim=(1, 3)).flatten(0, 1).diagonal()  # (9,)
    assert (own / change.sum(dim=0) > 0.75).all()


def test_a_visual_token_tells_its_place_however_much_it_saw_there(make_config):
    """Placed by the nearest of the other image's tokens: what is seen must not drown where."""
    encoder = MMJepaForConditionalGeneration(make_config(num_image_tokens=9, aligned_token=False)).encoder
    patches = 10 * torch.randn(2, 36, encoder.config.vision_config.hidden_size)
    tokens = encoder.prefix_norm(encoder.visual_prefix(None, patches, (6, 6))[0])  # (2, 9, D)
    assert torch.equal(torch.cdist(tokens[0], tokens[1]).argmin(dim=1), torch.arange(9))
