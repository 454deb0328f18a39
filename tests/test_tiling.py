"""Tiles: their sizes, their seams, and the padding of sides."""

import pytest
import torch
import torch.nn.functional as F

from distillkit.inference.tiling import restore_padded, restored_bands


def restore_tiled(restore, lq, scale, **options):
    """Restore in tiles, and check that every band begins where the one above ends."""

    def restore_box(box):
        return restore(lq[..., box.top : box.bottom, box.left : box.right])

    height, width = lq.shape[2:]
    bands = []
    rows = 0
    for top, band in restored_bands(restore_box, height, width, scale, **options):
        assert top == rows
        rows += band.shape[2]
        bands.append(band)
    return torch.cat(bands, dim=2)


def enlarge(lq):
    return F.interpolate(lq, scale_factor=2, mode="nearest")


@pytest.mark.parametrize("size", [(7, 9), (16, 16), (40, 23), (33, 64)])
@pytest.mark.parametrize("overlap", [0, 4])
def test_a_local_method_gives_the_same_image_tiled_or_not(size, overlap):
    lq = torch.rand(1, 3, *size)
    tiled = restore_tiled(enlarge, lq, 2, tile=16, overlap=overlap)
    assert torch.allclose(tiled, enlarge(lq), atol=1e-6)


def test_tiles_are_no_larger_than_asked_and_blended_without_seams():
    seen = []

    def shifted(lq):  # each tile comes out with an offset of its own: the worst case for seams
        seen.append(lq.shape[-2:])
        return enlarge(lq) + 0.5 * (len(seen) % 2)

    restored = restore_tiled(shifted, torch.zeros(1, 3, 16, 64), 2, tile=16, overlap=8)
    assert len(seen) == 7 and set(seen) == {(16, 16)}
    assert restored.diff(dim=-1).abs().max() <= 0.5 / 16 + 1e-5


def test_sides_are_padded_to_the_multiple_and_cropped_back():
    seen = []

    def restore(lq):
        seen.append(tuple(lq.shape[-2:]))
        return enlarge(lq)

    for size in [(5, 9), (1, 1), (8, 8)]:
        lq = torch.rand(1, 3, *size)
        restored = restore_padded(restore, lq, 2, 8)
        assert torch.equal(restored, enlarge(lq))
    assert seen == [(8, 16), (8, 8), (8, 8)]


def test_an_overlap_as_large_as_the_tile_is_refused():
    with pytest.raises(ValueError, match="overlap 16"):
        restore_tiled(enlarge, torch.zeros(1, 3, 8, 8), 2, tile=16, overlap=16)
