"""How strong skip connections and initial weights are in a very deep stack."""


def deepnorm_scales(encoder_layers: int = 0, decoder_layers: int = 0) -> dict[str, tuple[float, float]]:
    """DeepNorm's `(α, β)` for "encoder" and "decoder", by the number of their layers; 0 is no such stack.

    `α` is the `residual_scale` of layers in post-norm. `β` is what the initial weights of the feed-forward and
    of the attention's values and output (Xavier's draws) are multiplied with; those of queries and keys are not.

    >>> deepnorm_scales(encoder_layers=8)["encoder"]
    (2.0, 0.3535533905932738)

    Raises:
        ValueError: a number is below 0.

    Source: Wang et al. (arXiv 2203.00555), table 2.
    """
    n, m = encoder_layers, decoder_layers
    if min(n, m) < 0:
        raise ValueError(f"numbers of layers must not be below 0, got {n} and {m}")
    if n and m:
        both = (n**4 * m) ** (1 / 16)
        return {
            "encoder": (0.81 * both, 0.87 / both),
            "decoder": ((3 * m) ** 0.25, (12 * m) ** -0.25),
        }
    alone = {"encoder": n, "decoder": m}
    return {name: ((2 * k) ** 0.25, (8 * k) ** -0.25) for name, k in alone.items() if k}
