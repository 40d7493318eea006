"""Inputs as people, programs and accidents write them."""

from __future__ import annotations

import json
from typing import Any

import yaml
from hypothesis import strategies as st

from wiserl.agent.catalogue import algorithm_class, algorithm_names
from wiserl.core.config import field_names
from wiserl.experiment.options import RUN_OPTIONS

NAMES = sorted(
    {
        *RUN_OPTIONS,
        "env_kwargs",
        "network",
        *(n for a in algorithm_names() for n in field_names(algorithm_class(a).config_class)),
    }
)

# Sizes are small, or such that no machine has them: what lies between could be made, and fill the memory of this one.
INTEGERS = st.integers(-3, 40) | st.sampled_from([2**40, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30])
WORDS = st.sampled_from(
    ["", " ", "auto", "none", "null", "true", "inline", "native", "process", "local", "cpu", "cuda:99", "cuda:x", "mlp",
     "lstm_cnn", "x.json", "x:Y", ".:x", "relu", "linear", "2020-01-01", "12:30", "0x1g", "1e5", "1e999", "nan", ".inf", "1_0",
     "٣", "64,64", "[64", "\0", "\ud800", "a\nb", "±", "x" * 5000, "!!set {a}", "*a", "&a"]
)  # fmt: skip
SCALARS = st.none() | st.booleans() | INTEGERS | st.floats() | WORDS | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4) | WORDS, inner, max_size=4),
    max_leaves=8,
)
LAYERS = st.lists(
    st.dictionaries(
        st.sampled_from(["type", "in_features", "out_features", "kernel_size", "dim", "max"]), SCALARS, max_size=4
    ),
    max_size=3,
)
ENV_KWARGS = st.dictionaries(st.sampled_from(["x", "y", "max_episode_steps", ""]), VALUES, max_size=2)

_LIKELY = st.sampled_from(NAMES) | st.sampled_from(
    ["env.x", "env.y", "env.", "x", "learning_rat", "algo", "env", "resume"]
)


PLAUSIBLE: dict[str, st.SearchStrategy[Any]] = {
    "seed": st.integers(0, 10**20),
    "total_steps": st.integers(1, 10**7),
    "envs": st.integers(1, 8),
    "gamma": st.floats(0, 1),
    "learning_rate": st.floats(1e-8, 1),
    "hidden_sizes": st.lists(st.integers(1, 16), max_size=3),
    "activation": st.sampled_from(["tanh", "relu", "gelu"]),
    "net": st.sampled_from(["auto", "mlp", "rnn"])
    | st.just([{"type": "linear", "in_features": 2, "out_features": 4}, {"type": "tanh"}]),
    "sync": st.booleans() | st.sampled_from(["true", "false"]),
    "save_replay": st.booleans(),
    "checkpoint_every": st.integers(0, 100),
    "device": st.just("cpu"),
    "env_kwargs": st.dictionaries(st.just("x"), VALUES),
    "env.x": SCALARS,
}


@st.composite
def options(draw: Any) -> dict[Any, Any]:
    """A mapping of options to values: all plausible, or of the right names at least, most of them."""
    found: dict[Any, Any] = {}
    if draw(st.booleans()):
        return {key: draw(PLAUSIBLE[key]) for key in draw(st.sets(st.sampled_from(sorted(PLAUSIBLE)), max_size=5))}
    for key in draw(st.lists(_LIKELY | st.text(max_size=6), max_size=4)):
        kind = ENV_KWARGS if key == "env_kwargs" else LAYERS if key == "net" else VALUES
        found[key] = draw(kind | VALUES)
    return found


def as_yaml(value: Any) -> str:
    """As YAML; what a file cannot hold is left out."""
    return yaml.safe_dump(value, allow_unicode=True, default_flow_style=None)


_PIECES = st.sampled_from(
    ["a: 1\n", "a: 2\n", "env_kwargs: {x: ", "seed: ", "x: ", "- ", "[", "]", "{", "}", ", ", ": ", "\n", "  ", "\t", "? ",
     "| ", "> ", "&a ", "*a ", "<<: ", "<<: *a\n", "!!set ", "!!binary ", "!!timestamp ", "!!omap ", "!!int ", "!!float ",
     "!!bool ", "!!null ", "!!str ", "!x ", "!!python/object/apply:os.system ['touch ran'] ", "!!python/name:os.system ",
     "!!python/module:this ", "%YAML 1.1\n---\n", "---\n", "...\n", "#", "'", '"', "\\", "2020-01-01", "0x1f", "0b1", "010",
     "1:30", "1:30.5", ".5e3", "~", "yes", "=", "1e400", "-", "\ufeff", "[" * 60, "[" * 400, "{a: " * 40, "\x85", "\u2028",
     "\x07"]
)  # fmt: skip


@st.composite
def texts(draw: Any) -> str:
    """The text of a file: of options as they are, of them with changes, or of pieces of YAML."""
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return "".join(draw(st.lists(_PIECES, max_size=12)))
    given = draw(options())
    text = as_yaml(given) if kind == 1 else json.dumps(given)
    for piece in draw(st.lists(_PIECES, max_size=2 if kind < 3 else 0)):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + piece + text[at + draw(st.integers(0, 2)) :]
    return text


@st.composite
def files(draw: Any) -> bytes:
    """The content of a file: a text, in one encoding or another, with bytes changed or cut off; or any bytes."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(st.binary(max_size=60))
    encoding = draw(st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"]))
    data = draw(texts()).encode(encoding, "surrogatepass" if encoding.startswith("utf") else "replace")
    if kind == 1 and data:
        at = draw(st.integers(0, len(data) - 1))
        data = data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
    return data[: draw(st.integers(0, len(data)))] if kind == 2 else data
