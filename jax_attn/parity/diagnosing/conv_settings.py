"""Settings of convolutions on either side, in the same words."""

from typing import Any

Axes = tuple[int, ...]


def flax_conv(module: Any) -> dict[str, Any]:
    """Of an `nnx.Conv`."""
    kernel = _each(module.kernel_size, 1)
    axes = len(kernel)
    stride, dilation = _each(module.strides, axes), _each(module.kernel_dilation, axes)
    mode, padding = "zeros", module.padding
    if isinstance(padding, str):
        word = padding.upper()
        if word in ("CIRCULAR", "REFLECT"):
            mode, word = word.lower(), "SAME"
        padding = _named_padding(word, kernel, stride, dilation)
    elif isinstance(padding, int):
        padding = ((padding, padding),) * axes
    else:
        padding = tuple((p, p) if isinstance(p, int) else tuple(p) for p in padding)
    return _settings(stride, padding, dilation, module.feature_group_count, mode)


def torch_conv(module: Any) -> dict[str, Any]:
    """Of a `torch.nn.Conv1d`, `Conv2d` or `Conv3d`."""
    stride, dilation = tuple(module.stride), tuple(module.dilation)
    padding = module.padding
    if isinstance(padding, str):
        padding = _named_padding(padding.upper(), tuple(module.kernel_size), stride, dilation)
    else:
        padding = tuple((int(p), int(p)) for p in padding)
    return _settings(stride, padding, dilation, module.groups, module.padding_mode)


def _settings(stride: Axes, padding: Any, dilation: Axes, groups: int, mode: str) -> dict[str, Any]:
    return {
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
        "padding_mode": mode,
    }


def _named_padding(word: str, kernel: Axes, stride: Axes, dilation: Axes) -> Any:
    """(before, after) of each axis; the word itself where that hangs on the input's length."""
    reach = [step * (size - 1) for step, size in zip(dilation, kernel, strict=True)]
    if word == "VALID":
        return tuple((0, 0) for _ in reach)
    if word == "CAUSAL":
        return tuple((total, 0) for total in reach)
    if word == "SAME" and all(step == 1 for step in stride):
        return tuple((total // 2, total - total // 2) for total in reach)
    if word == "SAME" and all(total < step for total, step in zip(reach, stride, strict=True)):
        return tuple(
            (0, 0) for _ in reach
        )  # patches that do not overlap: it is so, or another shape comes out
    return word


def _each(value: Any, axes: int) -> Axes:
    return (1,) * axes if value is None else (value,) * axes if isinstance(value, int) else tuple(value)
