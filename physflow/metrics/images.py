r"""Images as the networks that judge them expect them: uint8 to compare, resized and scaled as Inception-v3 was used.

Published values of FID depend on these steps. In the setting called legacy_tensorflow (G. Parmar et al.) images of any
size enter the network of 2015-12-05 as the numbers 0 to 255; it resizes them itself, by the bilinear interpolation of
TensorFlow 1, and scales them to (x - 128) / 128. `resize_as_tensorflow1` and `inception_input` do the same for a
network that expects it done.

References:
    G. Parmar, R. Zhang, J.-Y. Zhu, "On aliased resizing and surprising subtleties in GAN evaluation", CVPR 2022.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["grey_to_colour", "inception_input", "quantise", "resize_as_tensorflow1"]


def quantise(x: Tensor) -> Tensor:
    r"""Images from [-1, 1] as uint8, as published values of FID of flow matching have them.

    .. math:: q = \lfloor \mathrm{clip}(127.5\, x + 128,\; 0,\; 255) \rfloor

    With :math:`v = 127.5\, (x + 1)`, which is in [0, 255], q is v rounded to the nearest number, halves upwards, so
    that images that were :math:`p / 127.5 - 1` come back as p. `torch.round` of v rounds halves to the even number, and
    differs where v is 0.5, 2.5, and so on. Truncating v itself, as a plain cast does, gives one less wherever the
    fraction of v is a half or more.

    Arguments:
        x: Images of any shape; what lies outside [-1, 1] counts as the nearest end.

    Returns:
        The images as uint8, same shape.

    Raises:
        ValueError: If the images are not of a floating dtype or hold NaN.
    """
    if not x.is_floating_point():
        raise ValueError(f"expected images from [-1, 1] in a floating dtype, got {x.dtype}; uint8 needs no quantising")
    if x.isnan().any():
        raise ValueError("images hold NaN, which no number from 0 to 255 stands for: leave those out and say how many")
    # Half precision does not tell 127.5 x + 128 to the unit.
    x = x if x.dtype == torch.float64 else x.float()
    return (x * 127.5 + 128).clip(0, 255).to(torch.uint8)


def grey_to_colour(images: Tensor) -> Tensor:
    """Grey images as images of three equal channels.

    Arguments:
        images: Images, shape (n, 1, height, width).

    Returns:
        Images of shape (n, 3, height, width).

    Raises:
        ValueError: If the images have another shape.
    """
    if images.ndim != 4 or images.shape[1] != 1:
        raise ValueError(f"expected grey images of shape (n, 1, height, width), got {tuple(images.shape)}")
    return images.expand(-1, 3, -1, -1)


def resize_as_tensorflow1(images: Tensor, size: int = 299) -> Tensor:
    r"""Resize to a square by the bilinear interpolation of TensorFlow 1.

    Along an axis of h pixels the value of pixel i is

    .. math:: (1 - w)\, x_l + w\, x_{\min(l + 1,\, h - 1)}, \qquad
              l = \lfloor s \rfloor, \quad w = s - l, \quad s = i\, h / \mathrm{size}.

    Centres of pixels are not aligned, as they are in later versions and in `torch.nn.functional.interpolate`, and
    nothing is averaged where the images become smaller.

    Arguments:
        images: Images, shape (n, channels, height, width); integers become float32.
        size: The pixels of a side of the results.

    Returns:
        Images of shape (n, channels, size, size), in the unit of the images.

    Raises:
        ValueError: If the shape is another, an axis is empty, or the size is not positive.
    """
    if images.ndim != 4 or not images.shape[2] or not images.shape[3] or size < 1:
        raise ValueError(
            "expected images of shape (n, channels, height, width) with pixels, and a size of at least 1, got "
            f"{tuple(images.shape)} and size={size}"
        )
    x = images if images.is_floating_point() else images.float()
    # TensorFlow interpolates within the rows first.
    for axis in (3, 2):
        h = x.shape[axis]
        place = torch.arange(size, dtype=torch.float64) * (h / size)
        low = place.long().clamp(max=h - 1)
        w = (place - low).to(x).reshape(-1, *[1] * (3 - axis))
        low = low.to(x.device)
        x = torch.lerp(x.index_select(axis, low), x.index_select(axis, (low + 1).clamp(max=h - 1)), w)
    return x


def inception_input(images: Tensor, size: int = 299) -> Tensor:
    """Images for an Inception-v3 that neither resizes nor scales: (x - 128) / 128 of the images resized.

    Arguments:
        images: Images of the numbers 0 to 255, shape (n, channels, height, width).
        size: The pixels of a side of the results; images of this size are only scaled.

    Returns:
        Images of shape (n, channels, size, size), from -1 to 127 / 128.

    Raises:
        ValueError: As `resize_as_tensorflow1`.
    """
    return (resize_as_tensorflow1(images, size) - 128) / 128
