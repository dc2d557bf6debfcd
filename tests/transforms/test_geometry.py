import pytest

from kits_unet3d.transforms.resample import centred_padding, crop_to_stride, padding_to_stride, resampled_shape


def test_the_shape_is_truncated_not_rounded():
    # 100 · 0.79 / 1.2 = 65.83; 61 · 5 / 1.6 = 190.6
    assert resampled_shape((61, 100, 100), (5.0, 0.79, 0.79), (1.6, 1.2, 1.2)) == (190, 65, 65)


def test_no_axis_vanishes():
    assert resampled_shape((1, 1, 1), (0.1, 0.1, 0.1), (1.6, 1.2, 1.2)) == (1, 1, 1)


@pytest.mark.parametrize("spacing", [(1, 1), (0, 1, 1), (-1, 1, 1), (float("nan"), 1, 1), (float("inf"), 1, 1)])
def test_a_spacing_that_is_none_is_refused(spacing):
    with pytest.raises(ValueError, match="spacing_mm must be 3 positive numbers"):
        resampled_shape((4, 4, 4), spacing, (1, 1, 1))


@pytest.mark.parametrize(
    ("size", "kept"),
    [(128, (0, 128)), (129, (0, 128)), (159, (15, 143)), (160, (0, 160)), (191, (0, 191)), (192, (0, 192))],
)
def test_less_than_half_a_stride_is_cut(size, kept):
    assert crop_to_stride(size, 64) == kept


@pytest.mark.parametrize(
    ("size", "pads"), [(128, (0, 0)), (160, (16, 16)), (191, (0, 1)), (50, (39, 39)), (64, (32, 32))]
)
def test_an_axis_is_padded_to_the_stride_and_to_the_window(size, pads):
    assert padding_to_stride(size, 64, 128) == pads


def test_padding_puts_the_smaller_half_in_front():
    assert centred_padding(5, 8) == (1, 2)
    assert centred_padding(9, 8) == (0, 0)
