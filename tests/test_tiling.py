"""Tiles: their sizes, their places, their seams, and the padding of sides."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from distillkit import ModelInput
from distillkit.diffusion.padding import restore_padded
from distillkit.inference.tiling import plan_tiles, restored_bands


def restore_tiled(restore, lq, scale, size_multiple=1, **options):
    """Restore in tiles, and check that every band begins where the one above ends."""

    def restore_box(box):
        return restore(lq[..., box.top : box.bottom, box.left : box.right])

    height, width = lq.shape[2:]
    grid = plan_tiles(height, width, size_multiple=size_multiple, **options)
    bands = []
    rows = 0
    for top, band in restored_bands(restore_box, grid, scale):
        assert top == rows
        rows += band.shape[2]
        bands.append(band)
    return torch.cat(bands, dim=2)


def enlarge(lq):
    return F.interpolate(lq, scale_factor=2, mode="nearest")


@pytest.mark.parametrize("size", [(7, 9), (16, 16), (40, 23), (33, 64)])
@pytest.mark.parametrize("overlap", [0, 4])
@pytest.mark.parametrize("size_multiple", [1, 3])
def test_a_local_method_gives_the_same_image_tiled_or_not(size, overlap, size_multiple):
    lq = torch.rand(1, 3, *size)
    tiled = restore_tiled(enlarge, lq, 2, tile=16, overlap=overlap, size_multiple=size_multiple)
    assert torch.allclose(tiled, enlarge(lq), atol=1e-6)


@pytest.mark.parametrize("size", [(193, 193), (200, 4000), (1000, 777), (33, 21)])
@pytest.mark.parametrize("size_multiple", [1, 2, 8, 32])
def test_tiles_are_equal_overlap_enough_and_start_on_multiples(size, size_multiple):
    grid = plan_tiles(*size, tile=192, overlap=24, size_multiple=size_multiple)
    for length, spans in zip(size, (grid.rows, grid.columns), strict=True):
        assert spans[0][0] == 0
        assert spans[-1][1] == length
        assert all(start % size_multiple == 0 for start, _ in spans)
        sides = {-(-(end - start) // size_multiple) for start, end in spans}
        assert len(sides) == 1
        shared = [end - start for (_, end), (start, _) in itertools.pairwise(spans)]
        assert all(24 <= grid.overlap <= pixels for pixels in shared)
    rows = grid.rows[0][1]
    columns = grid.columns[0][1]
    assert rows * columns <= 192**2


def test_an_image_little_larger_than_a_tile_costs_little_more():
    grid = plan_tiles(193, 193, tile=192, overlap=24, size_multiple=1)
    pixels = sum(
        (bottom - top) * (right - left) for top, bottom in grid.rows for left, right in grid.columns
    )
    # The 24 rows that two tiles share are 24 / 192 of the image.
    assert pixels < 1.15 * 192**2


def test_a_network_with_strides_gives_the_same_image_tiled_or_not():
    def halve(lq):  # a network of stride 4 that sees no further
        return F.interpolate(F.avg_pool2d(lq, 4), scale_factor=4, mode="nearest")

    lq = torch.rand(1, 3, 84, 60)
    tiled = restore_tiled(halve, lq, 1, tile=33, overlap=5, size_multiple=4)
    assert torch.allclose(tiled, halve(lq), atol=1e-6)


def test_tiles_are_blended_without_seams():
    seen = []

    def shifted(lq):  # each tile comes out with an offset of its own: the worst case for seams
        seen.append(lq.shape[-2:])
        return enlarge(lq) + 0.5 * (len(seen) % 2)

    restored = restore_tiled(shifted, torch.zeros(1, 3, 16, 64), 2, tile=16, overlap=8)
    assert len(seen) > 2
    assert len(set(seen)) == 1
    # half of the overlap is 8 pixels of the result
    assert restored.diff(dim=-1).abs().max() <= 0.5 / 8 + 1e-5


def test_sides_are_padded_to_the_multiple_and_cropped_back():
    seen = []

    def restore(inputs):
        seen.append(tuple(inputs.lq.shape[-2:]))
        return enlarge(inputs.lq)

    for size in [(5, 9), (1, 1), (8, 8)]:
        lq = torch.rand(1, 3, *size)
        restored = restore_padded(restore, ModelInput(lq), 2, 8)
        assert torch.equal(restored, enlarge(lq))
    assert seen == [(8, 16), (8, 8), (8, 8)]


def test_an_overlap_as_large_as_the_tile_is_refused():
    with pytest.raises(ValueError, match="overlap 16"):
        restore_tiled(enlarge, torch.zeros(1, 3, 8, 8), 2, tile=16, overlap=16)
