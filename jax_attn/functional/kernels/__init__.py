"""What a chip does better than XLA: kernels for TPU and GPU. Never imported on the way to a CPU.

One entry and one `why_not` for each platform. A `why_not` takes the arguments of its entry, or shapes and dtypes
in place of arrays, and returns the reason why a call cannot be served, or None. It looks at shapes, dtypes and
options alone, never at the devices of this machine, so it can be asked while tracing for another one.

    from jax_attn.functional.kernels.tpu import tpu_attention, why_not_tpu
    from jax_attn.functional.kernels.gpu import triton_attention, why_not_triton
    from jax_attn.functional.kernels.cudnn import cudnn_attention, why_not_cudnn
    from jax_attn.functional.kernels.visits import MaskTerms

    reason = why_not_tpu(query, key, value, score_mod, mask, scale=scale, softcap=softcap)
    output, lse, max_scores = tpu_attention(query, key, value, score_mod, mask, scale=scale, softcap=softcap)

`mask` is a `BlockMask`, the `MaskTerms` of `dot_product_attention` (its fields have the names of its arguments:
`is_causal`, `local_window_size`, `query_seq_lengths`, `key_value_seq_lengths`, `segment_ids`, `mask`), or None.
The scores are `score_mod(softcap(query keyᵀ · scale))`. `tpu_attention` takes splash attention by itself where that
serves; `residuals=False` (no maximum asked for) lets it do so. The log-sum-exp has a gradient. `why_not_triton` and
`triton_attention` are called in the same way; `why_not_cudnn(query, key, value, **options)` takes the options of
`dot_product_attention`.

XLA cannot divide a kernel: they run on one device and inside `jax.shard_map`. Where XLA divides the arrays of a
`jit` among devices, `blockwise/parallel.py` serves.
"""
