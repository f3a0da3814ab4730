"""A sizing as text."""

from collections.abc import Iterator

from jax_attn.training.sizing.compile import Sizing

MODULES, SHARE = 12, 0.005  # how many modules are listed at most, and from which part of the FLOPs


def sizing_text(found: Sizing, depth: int = 6) -> str:
    """Return what a step takes, as a table to read.

    Args:
        found: of `compile_step`.
        depth: how many parts of a module's path are told apart.
    """
    return "\n".join(
        [
            headline(found),
            "",
            *_memory(found),
            "",
            *_flops(found, depth),
            "",
            *_collectives(found),
            *_time(found),
        ]
        + [f"note: {note}" for note in found.notes]
    )


def headline(found: Sizing) -> str:
    """The answer in a line: what it is, and whether it fits."""
    mesh = ",".join(f"{axis}={size}" for axis, size in found.mesh.items()) or "one device"
    batch = f"{found.rows:,} rows" + (f", {found.tokens:,} tokens" if found.tokens != found.rows else "")
    return (
        f"{found.parameters:,} parameters on {found.topology}, {mesh}; a batch of {batch}: {verdict(found)}"
    )


def verdict(found: Sizing) -> str:
    """Whether it fits, and by how much."""
    memory = found.memory
    if memory.limit is None:
        return f"needs {gib(memory.total)} a device"
    if not memory.fits:
        return f"does not fit: needs {gib(memory.total)} of {gib(memory.limit)}"
    return f"fits: {gib(memory.total)} of {gib(memory.limit)}, {gib(memory.limit - memory.total)} free"


def _memory(found: Sizing) -> Iterator[str]:
    memory = found.memory
    about = "" if memory.exact else ", estimated"
    yield f"memory a device{about}"
    for name, size in memory.given.items():
        yield _row(name, gib(size))
    if memory.temporaries is not None:
        told = f"activations, gradients ({gib(memory.gradients)} of them all at once) and scratch"
        yield _row("temporaries", gib(memory.temporaries), told)
    if memory.code:
        yield _row("program", gib(memory.code))
    yield _row("total", gib(memory.total), verdict(found))


def _flops(found: Sizing, depth: int) -> Iterator[str]:
    flops = found.flops
    again = (
        f", {flops.recomputed / flops.total:.0%} of them computed again by remat" if flops.recomputed else ""
    )
    yield f"FLOPs a step: {flops.total:.3e} (matrix products and convolutions){again}"
    listed = [pair for pair in flops.to_depth(depth).items() if pair[1] >= SHARE * flops.total][:MODULES]
    for path, count in listed:
        yield _row(path or "(outside of submodules)", f"{count:.2e}", f"{count / flops.total:.1%}")
    rest = flops.total - sum(count for _, count in listed)
    if rest:
        yield _row("others", f"{rest:.2e}", f"{rest / flops.total:.1%}")


def _collectives(found: Sizing) -> Iterator[str]:
    if found.collectives is None:
        return
    if not found.collectives:
        yield "collectives: none"
    else:
        yield "collectives a step and device"
        for each in found.collectives:
            name = f"{each.kind} over {each.group}" if each.kind != "collective-permute" else each.kind
            yield _row(name, gib(each.bytes), f"{each.times} times, {gib(each.sent)} sent")
    yield ""


def _time(found: Sizing) -> Iterator[str]:
    roofline = found.roofline
    parts = ", ".join(f"{name} {milliseconds(value)}" for name, value in roofline.parts.items())
    if found.collectives is None:
        yield f"a step takes at least {milliseconds(roofline.seconds)} ({parts})"
    else:
        yield f"a step takes at least {milliseconds(roofline.seconds)}, bound by {roofline.bound} ({parts})"
        yield f"at best {rate(found)}, model FLOPs utilisation {found.utilisation:.0%}"
    yield ", ".join(f"{name} {seconds:.1f} s" for name, seconds in found.seconds.items()) + " here"


def rate(found: Sizing) -> str:
    """How much a second at best: tokens, or rows where there are none."""
    what = "tokens" if found.tokens != found.rows else "rows"
    return f"{found.tokens_per_second:,.0f} {what} a second"


def _row(name: str, value: str, told: str = "") -> str:
    return f"  {name:<48} {value:>11}  {told}".rstrip()


def gib(size: float) -> str:
    """Bytes, in the unit that suits them."""
    for unit, power in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if abs(size) >= 2**power:
            return f"{size / 2**power:.2f} {unit}"
    return f"{size:.0f} B"


def milliseconds(seconds: float) -> str:
    """Seconds, in the unit that suits them."""
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{1000 * seconds:.2f} ms" if seconds >= 1e-3 else f"{1e6 * seconds:.1f} µs"
