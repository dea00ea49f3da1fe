"""Which operators keep float32, told from the graph alone."""

from __future__ import annotations

from types import SimpleNamespace

from robustbench_df.deploy.int8 import kept_in_float32


def node(name: str, op: str, inputs: str, output: str, group: int = 1) -> SimpleNamespace:
    attributes = [SimpleNamespace(name="group", i=group)] if op == "Conv" else []
    return SimpleNamespace(name=name, op_type=op, input=inputs.split(), output=[output], attribute=attributes)


def member(k: int) -> list[SimpleNamespace]:
    """Front-end, stem, a residual block with a depthwise convolution, head."""
    a = f"m{k}."
    return [
        node(a + "filters", "Conv", "images residuals.kernels", a + "f"),
        node(a + "cat", "Concat", f"images {a}f", a + "c"),
        node(a + "stem", "Conv", f"{a}c {a}w0", a + "s"),
        node(a + "depthwise", "Conv", f"{a}s {a}w1", a + "d", group=8),
        node(a + "point", "Conv", f"{a}d {a}w2", a + "p"),
        node(a + "add", "Add", f"{a}s {a}p", a + "a"),
        node(a + "hidden", "Gemm", f"{a}a {a}w3", a + "h"),
        node(a + "head", "Gemm", f"{a}h {a}w4", a + "logits"),
    ]


def test_the_ends_of_every_member_the_front_end_and_depthwise_stay() -> None:
    nodes = [*member(0), *member(1), node("mean", "Add", "m0.logits m1.logits", "logits")]
    kept = {name for name in kept_in_float32(nodes) if not name.endswith((".cat", "mean"))}
    wanted = ("filters", "stem", "depthwise", "head")
    assert kept == {f"m{k}.{name}" for k in (0, 1) for name in wanted}


def test_a_shortcut_round_the_stem_does_not_make_what_follows_a_first_layer() -> None:
    nodes = [
        node("stem", "Conv", "images w0", "s"),
        node("join", "Add", "s images", "j"),
        node("middle", "Conv", "j w1", "m"),
        node("head", "Gemm", "m w2", "logits"),
    ]
    assert kept_in_float32(nodes) == ["stem", "head"]
