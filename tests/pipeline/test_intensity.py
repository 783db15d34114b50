"""HU to conditioning channels: bounded, ordered, the same for every slice of the stack."""

import pytest
import torch

from pipeline.intensity import CHANNELS, blur, condition, with_neighbors


def test_channels_are_bounded_for_any_hu() -> None:
    hu = torch.linspace(-1024, 3071, 3 * 32 * 32).view(1, 3, 32, 32)
    channels = condition(hu)
    assert channels.shape == (1, CHANNELS, 32, 32)
    assert channels.abs().max() <= 1.5


def test_cord_and_csf_differ_more_in_the_soft_window_than_in_the_bone_window() -> None:
    hu = torch.full((2, 3, 16, 16), 38.0)
    hu[1] = 12.0
    cord, csf = condition(hu)[:, :, 8, 8]
    assert cord[0] - csf[0] > 10 * (cord[3] - csf[3]) > 0
    assert cord[6] - csf[6] > cord[0] - csf[0]


def test_bone_and_fat_do_not_bleed_into_the_blurred_channel_beyond_their_clip() -> None:
    hu = torch.full((1, 3, 33, 33), 40.0)
    quiet = condition(hu)[0, 6, 16, 16]
    hu[..., 20:] = 1500.0
    clipped = condition(hu)[0, 6, 16, 16]
    hu[..., 20:] = 140.0
    assert torch.equal(clipped, condition(hu)[0, 6, 16, 16])
    assert clipped - quiet < 0.1


def test_the_end_slices_stand_in_for_their_missing_neighbors() -> None:
    stack = torch.arange(4.0).view(4, 1, 1).expand(4, 2, 2)
    triples = with_neighbors(stack)[:, :, 0, 0].tolist()
    assert triples == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 3]]


def test_a_slice_is_conditioned_alike_alone_and_in_a_batch() -> None:
    hu = 300 * torch.randn((5, 3, 24, 24), generator=torch.Generator().manual_seed(1))
    together = condition(hu)
    for i in range(5):
        torch.testing.assert_close(condition(hu[i : i + 1])[0], together[i])


def test_blur_keeps_a_constant_and_the_sum_of_a_point() -> None:
    assert torch.allclose(blur(torch.full((1, 2, 20, 20), 7.0), 1.4), torch.tensor(7.0))
    point = torch.zeros((1, 1, 31, 31))
    point[..., 15, 15] = 1
    assert float(blur(point, 2.0).sum()) == pytest.approx(1, abs=1e-5)


def test_a_stack_without_neighbors_is_refused() -> None:
    with pytest.raises(ValueError, match="expected"):
        condition(torch.zeros((2, 5, 16, 16)))
