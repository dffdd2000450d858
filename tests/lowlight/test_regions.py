"""Masks by hand, against OpenCV's saliency and the authors' blocks and grid, and at their edges."""

import numpy as np
import pytest
import torch
from torch import Tensor

from smmcl.data.appearance.saliency import spectral_residual
from smmcl.lowlight.regions import (
    AuxiliaryMask,
    BlockMask,
    LabelMask,
    RandomMask,
    SaliencyMask,
    TemporalMixture,
    erase_blocks,
    keep_above,
)
from smmcl.lowlight.view import View


def bits(packed: Tensor, size: tuple[int, int]) -> Tensor:
    flat = np.unpackbits(packed.numpy(), count=size[0] * size[1])
    return torch.from_numpy(flat.reshape(size)).bool()


def view_of(image: Tensor, **others) -> View:
    return View(image, seeds=range(len(image)), **others)


def bgr_image(array: Tensor) -> Tensor:
    return array.flip(2).permute(2, 0, 1)[None] / 255


def test_quantile_by_hand() -> None:
    values = torch.tensor([[0.1, 0.4, 0.3, 0.2], [5.0, 5.0, 5.0, 9.0]]).view(2, 1, 2, 2)
    # Of .1 to .4, the quantile .4 lies between the second and the third value. Of the other image,
    # it is 5: ties are erased together.
    kept = keep_above(values, 0.4).flatten(1).tolist()
    assert kept == [[False, True, True, False], [False, False, False, True]]
    assert keep_above(values, 0).flatten(1).sum(1).tolist() == [3, 1]
    flat = torch.full((1, 1, 2, 2), 0.7)
    assert keep_above(flat, 0.5).all()  # nothing stands out, so all is kept
    for quantile in (-0.1, 1.0):
        with pytest.raises(ValueError, match=f"quantile is {quantile}. Set it to 0 or more"):
            keep_above(values, quantile)


@pytest.mark.parametrize("quantile", [0.4, 0.5])
def test_quantile_keeps_the_stated_share(quantile: float) -> None:
    values = torch.rand(3, 1, 50, 60, generator=torch.Generator().manual_seed(0))
    kept = keep_above(values, quantile).float().mean((1, 2, 3))
    torch.testing.assert_close(kept, torch.full((3,), 1 - quantile), rtol=0, atol=1 / 3000)
    # One share per image: those of a batch do not depend on each other.
    assert torch.equal(keep_above(values, quantile)[1:], keep_above(values[1:], quantile))


def test_saliency_matches_opencv(numbers) -> None:
    image = bgr_image(numbers["wiid/saliency/0/image_bgr"])
    ours = spectral_residual(torch.cat((image, image)))  # (2, 1, 120, 160)
    assert ours.dtype == torch.float32
    for saliency in ours[:, 0]:
        torch.testing.assert_close(
            saliency[::4, ::4], numbers["wiid/saliency/0/map"], rtol=0, atol=5e-5
        )
    # The authors' percentile, of the map in steps of 1/255, which rounding can decide.
    for name, share in (("q0.4", 0.004), ("q50", 0.5)):
        released = SaliencyMask(share, is_rounded=True).mask(view_of(image))[0, 0]
        theirs = bits(numbers[f"wiid/saliency/0/{name}_mask_bits"], (120, 160))
        assert (released != theirs).float().mean() < 1e-3
    intended = SaliencyMask(0.4).mask(view_of(image)).float().mean().item()
    assert intended == pytest.approx(0.6, abs=1e-3)  # released: 0.54


def test_saliency_matches_opencv_on_another_image(golden) -> None:
    with np.load(golden / "companion_wiid.npz") as file:
        image = bgr_image(torch.from_numpy(file["saliency/1/image_bgr"]))
        theirs = torch.from_numpy(file["saliency/1/map"])
    torch.testing.assert_close(spectral_residual(image)[0, 0], theirs, rtol=0, atol=5e-5)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_images_without_saliency_are_kept(value: float) -> None:
    generator = torch.Generator().manual_seed(0)
    other = torch.rand(1, 3, 40, 30, generator=generator)
    image = torch.cat((torch.full((1, 3, 40, 30), value), other))
    saliency = spectral_residual(image)
    assert saliency.isfinite().all()
    assert not saliency[0].any()
    keep = SaliencyMask().mask(view_of(image))
    assert keep[0].all()
    assert 0.4 < keep[1].float().mean() < 0.6


def test_saliency_finds_the_odd_one() -> None:
    image = torch.full((1, 3, 64, 64), 0.5)
    image[..., 20:24, 40:44] = 1
    saliency = spectral_residual(image)[0, 0]
    row, column = divmod(saliency.argmax().item(), 64)
    assert 18 <= row <= 25
    assert 38 <= column <= 45


def test_auxiliary_mask_by_hand() -> None:
    heat = torch.tensor([[1.0, 2.0], [3.0, 9.0]]).view(1, 1, 2, 2)
    view = View(torch.zeros(1, 3, 2, 2), auxiliary=torch.cat((heat, heat), 1))
    assert AuxiliaryMask(0.7).mask(view).flatten().tolist() == [False, False, False, True]
    low = AuxiliaryMask(0.7, keeps_low=True).mask(view)
    assert low.flatten().tolist() == [True, False, False, False]
    with pytest.raises(ValueError, match="The view has no auxiliary"):
        AuxiliaryMask().mask(View(torch.zeros(1, 3, 2, 2)))


def test_label_mask_follows_the_grid_of_the_reference(numbers) -> None:
    height, width = numbers["wiid/grid/image_hw"].tolist()
    labels = torch.full((2, height, width), 255)
    for label, left, top, right, bottom in numbers["wiid/grid/boxes_cls_xyxy"].int().tolist():
        labels[:, top:bottom, left:right] = label
    view = view_of(torch.zeros(2, 3, height, width), labels=labels)
    targets = numbers["wiid/grid/foreground_rows_cols"].bool()
    _, background, erased = numbers["wiid/grid/counts_front_back_erased"].tolist()
    # All cells without targets, then the share of the reference.
    keep = LabelMask((0, 3), share=1.0).mask(view)[0, 0]
    cells = keep[:125, :200].view(5, 25, 5, 40)
    assert torch.equal(cells.all(3).all(1), targets)
    assert torch.equal(cells.any(3).any(1), targets)
    assert keep[125:].all()
    assert keep[:, 200:].all()
    keep = LabelMask((0, 3), share=0.3).mask(view)
    counts = (~keep[:, 0, :125, :200]).view(2, 5, 25, 5, 40).all(4).all(2).flatten(1).sum(1)
    assert counts.tolist() == [erased, erased] == [int(0.3 * background)] * 2
    assert not torch.equal(keep[0], keep[1])  # the draws of two images differ
    theirs = bits(numbers["wiid/grid/erased_bits"], (height, width))
    assert (~keep[0]).sum() == theirs.sum()


def test_label_mask_without_labels() -> None:
    view = view_of(torch.zeros(1, 3, 40, 50), labels=torch.full((1, 40, 50), 255))
    assert LabelMask((1,), share=1.0).mask(view).all()
    assert LabelMask((255,), share=1.0).mask(view).all()
    with pytest.raises(ValueError, match="The view has no labels"):
        LabelMask((1,)).mask(view_of(torch.zeros(1, 3, 4, 4)))


@pytest.mark.parametrize(("side", "share"), [(32, 0.5), (40, 0.5), (63, 0.6)])
def test_blocks_match_the_reference(side: int, share: float, numbers) -> None:
    theirs = {k.rpartition("/")[2]: v for k, v in numbers.items() if f"s{side}_r{share}/" in k}
    assert int(224 * 224 * share / side**2) == theirs["n"]
    keeps = [erase_blocks((224, 224), c.numpy(), side) for c in theirs["locations"].int()]
    erased = 1 - torch.stack(keeps).double().mean((1, 2))
    torch.testing.assert_close(erased, theirs["covered"])
    assert torch.equal(keeps[0], bits(theirs["mask0_bits"], (224, 224)))


def test_drawn_blocks_cover_what_the_reference_covers(numbers) -> None:
    view = view_of(torch.zeros(1, 3, 224, 224).expand(600, -1, -1, -1))
    keep = BlockMask().mask(view)
    covered = 1 - keep.double().mean((1, 2, 3))
    mean, std = numbers["wiid/blocks/monte_carlo_4000"][:2].tolist()
    assert covered.mean().item() == pytest.approx(mean, abs=0.01)
    assert covered.std().item() == pytest.approx(std, abs=0.01)
    assert not keep[..., -1, :].all()  # the released blocks never reach the last row
    assert torch.equal(keep[5:7], BlockMask().mask(View(view.image[:2], seeds=[5, 6])))


def test_blocks_of_small_images() -> None:
    keep = BlockMask().mask(view_of(torch.zeros(20, 3, 8, 40)))
    assert keep.shape == (20, 1, 8, 40)
    assert keep.flatten(1).any(1).all()
    assert not keep.all()
    with pytest.raises(ValueError, match="0 seeds for 2 images"):
        BlockMask().mask(View(torch.zeros(2, 3, 64, 64)))


def test_random_mask_takes_the_stated_shares(numbers) -> None:
    class Column:
        def __init__(self, column: int) -> None:
            self.column = column

        def mask(self, view: View) -> Tensor:
            keep = torch.zeros(len(view.image), 1, 1, 2, dtype=torch.bool)
            keep[..., self.column] = True
            return keep

    *shares, none = numbers["wiid/blocks/share_saliency_blocks_none"].tolist()
    keep = RandomMask([Column(0), Column(1)], shares).mask(view_of(torch.zeros(4000, 3, 1, 2)))
    kinds = keep.flatten(1).tolist()
    counts = [kinds.count(kind) / 4000 for kind in ([True, False], [False, True], [True, True])]
    assert counts == pytest.approx([*shares, none], abs=0.03)


def test_motion_is_kept() -> None:
    pytest.importorskip("cv2", reason="the temporal mixture is OpenCV's")
    clip = torch.full((12, 3, 40, 60), 0.5)
    for time, frame in enumerate(clip):
        frame[:, 10:20, 4 * time : 4 * time + 10] = 1
    keep = TemporalMixture().mask(View(clip))
    assert keep.shape == (12, 1, 40, 60)
    assert keep[0].all()  # the first frame has no past
    last = keep[-1, 0]
    assert last[11:19, 46:53].all()
    assert not last[25:].any()
    still = TemporalMixture().mask(View(clip[:1].expand(6, -1, -1, -1)))
    assert still.all()  # nothing moves, so all is kept
