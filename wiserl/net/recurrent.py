"""Memory: GRU and LSTM, a step at a time where one acts, through whole sequences where one learns.

What is remembered is one array per row, `[N, M]` float32, zero at an episode's start: of a GRU its state (M = H), of an LSTM its
output and its cell side by side (M = 2H).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from wiserl.core.tree import Array, Nested, leading_axes, tree_map
from wiserl.net.encoder import Features

Cell: TypeAlias = Literal["lstm", "gru"]

_GATES = {"lstm": 4, "gru": 3}


class Recurrent(nn.Module):
    """The recurrent core. Weights begin orthogonal, gate by gate, biases at zero.

    Args:
        cell: `lstm` (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000) or `gru` (Cho et al. 2014).
        inputs: F, features that come in.
        units: H, features that go out.

    Attributes:
        size: H.
        memory_size: M.
    """

    def __init__(self, cell: Cell, inputs: int, units: int) -> None:
        super().__init__()
        self.cell, self.inputs, self.size = cell, inputs, units
        self.memory_size = 2 * units if cell == "lstm" else units
        self.rnn: nn.LSTM | nn.GRU = nn.LSTM(inputs, units) if cell == "lstm" else nn.GRU(inputs, units)
        for name, parameter in self.rnn.named_parameters():
            if name.startswith("bias"):
                nn.init.zeros_(parameter)
            else:
                for gate in parameter.detach().chunk(_GATES[cell]):
                    nn.init.orthogonal_(gate)

    def step(self, features: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """One step of each row.

        Args:
            features: `[N, F]`.
            memory: `[N, M]`.

        Returns:
            Outputs `[N, H]`, and what is remembered now, `[N, M]`.
        """
        out, after = self._run(features.unsqueeze(0), memory)
        return out.squeeze(0), after

    def unroll(self, features: Tensor, memory: Tensor, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As so many steps, by one call.

        Args:
            features: `[T, N, F]`.
            memory: `[N, M]`, before the first step.
            reset: `[T, N]` bool, whether an episode begins there: what is remembered is zero before that step; None: nowhere.

        Returns:
            Outputs `[T, N, H]`, and what is remembered after the last step, `[N, M]`.
        """
        if reset is None:
            return self._run(features, memory)
        if not len(reset):
            return features.new_zeros(0, len(memory), self.size), memory
        memory = memory.masked_fill(reset[0].unsqueeze(1), 0.0)
        if not bool(reset[1:].any()):
            return self._run(features, memory)
        out = self._cut(features, memory, reset)
        if self.cell == "gru":
            return out, out[-1]
        return out, torch.cat([out[-1], self._last_cells(features, memory, reset, out)], 1)

    def _run(self, features: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Through sequences `[T, N, F]` without a reset."""
        if not features.shape[0] or not features.shape[1]:
            return features.new_zeros(*features.shape[:2], self.size), memory
        if self.cell == "gru":
            out, last = self.rnn(features, memory.unsqueeze(0).contiguous())
            return out, last.squeeze(0)
        hidden, cells = memory.unsqueeze(0).chunk(2, 2)
        out, (hidden, cells) = self.rnn(features, (hidden.contiguous(), cells.contiguous()))
        return out, torch.cat([hidden, cells], 2).squeeze(0)

    def _cut(self, features: Tensor, memory: Tensor, reset: Tensor) -> Tensor:
        """Outputs `[T, N, H]`: sequences are cut where episodes begin, and the pieces go side by side, padded to the longest.

        Padding costs less than packing: PyTorch runs packed sequences step by step, padded ones by oneDNN or cuDNN.
        """
        steps, rows = reset.shape
        starts = reset.detach().cpu().numpy().copy()
        starts[0] = True
        first = np.flatnonzero(starts.T)  # sequence after sequence: n * T + t
        lengths = np.diff(first, append=rows * steps)
        row, begin = np.divmod(first, steps)
        offsets = np.arange(lengths.max())[:, None]
        taken = np.minimum(begin + offsets, steps - 1) * rows + row  # [L, K]: which row of [T * N] is where
        kept = np.flatnonzero(offsets < lengths)
        source, places = (torch.from_numpy(index).to(features.device) for index in (taken.reshape(-1), kept))
        # At the beginning of a sequence there is its memory, elsewhere there is none.
        heads = torch.from_numpy(np.flatnonzero(begin == 0)).to(features.device)
        before = memory.new_zeros(len(first), self.memory_size).index_copy(0, heads, memory)
        pieces = features.reshape(steps * rows, -1).index_select(0, source).view(len(offsets), len(first), -1)
        out = self._run(pieces, before)[0].reshape(len(source), self.size)
        joined = out.new_empty(steps * rows, self.size).index_copy(0, source[places], out.index_select(0, places))
        return joined.view(steps, rows, self.size)

    def _last_cells(self, features: Tensor, memory: Tensor, reset: Tensor, out: Tensor) -> Tensor:
        """Cells `[N, H]` of an LSTM after the last step.

        Outputs are known for each step, so the gates are those of one product for all steps; what is left of the recurrence,
        c = f c + i g, is elementwise.
        """
        last = (torch.arange(len(reset), device=reset.device).unsqueeze(1) * reset).amax(0)
        first = int(last.min())  # from here on, every sequence's last piece is covered
        before = out[first - 1 : -1] if first else torch.cat([memory[None, :, : self.size], out[:-1]])
        fresh = reset[first:].unsqueeze(2)
        of_input, of_output, bias_in, bias_out = self.rnn.parameters()
        gates = features[first:] @ of_input.t() + before.masked_fill(fresh, 0.0) @ of_output.t() + bias_in + bias_out
        opened, forget, candidate, _ = gates.chunk(4, 2)
        added = opened.sigmoid() * candidate.tanh()
        cells = memory[:, self.size :]
        for kept, new in zip(forget.sigmoid().masked_fill(fresh, 0.0), added, strict=True):
            cells = kept * cells + new
        return cells


Step: TypeAlias = Callable[[Array, Array], tuple[Array, Array]]


def numpy_step(core: Recurrent) -> Step | None:
    """`core.step` as a function of arrays, for few rows on the CPU, at a part of the price of PyTorch's calls.

    It reads the module's own memory, so it follows every change of its weights that is made in place.

    Returns:
        The function, of float32 features `[N, F]` and memory `[N, M]`, which it leaves as they are (what it returns is one
        array, the outputs a part of it); None for a core that it is not known to be the same function as: on another device,
        or of a subclass.
    """
    weights = list(core.rnn.parameters())
    known = type(core) is Recurrent and type(core.rnn) in (nn.LSTM, nn.GRU) and len(weights) == 4  # one layer, one way
    if not known or weights[0].device.type != "cpu":
        return None
    # [gates * H, ...]: rows of units, columns of rows. BLAS is three times slower the other way round, for so few rows.
    of_input, of_output, bias_in, bias_out = (weight.detach().numpy() for weight in weights)
    size = core.size
    step = _lstm_step if core.cell == "lstm" else _gru_step
    return functools.partial(step, size, of_input, of_output, bias_in[:, None], bias_out[:, None])


_HALF = np.float32(0.5)


def _sigmoid_(values: Array) -> None:
    """In place: (tanh(x / 2) + 1) / 2, since numpy's tanh is fast."""
    values *= _HALF
    np.tanh(values, out=values)
    values *= _HALF
    values += _HALF


def _lstm_step(size: int, of_input: Array, of_output: Array, bias_in: Array, bias_out: Array, features: Array,
               memory: Array) -> tuple[Array, Array]:  # fmt: skip
    before = memory.T.copy()  # of its own also where there is one row
    gates = of_input @ np.ascontiguousarray(features.T)
    gates += of_output @ before[:size]
    gates += bias_in + bias_out
    opened, candidate, output = gates[: 2 * size], gates[2 * size : 3 * size], gates[3 * size :]
    _sigmoid_(opened)
    np.tanh(candidate, out=candidate)
    _sigmoid_(output)
    cells = before[size:]
    cells *= opened[size:]
    candidate *= opened[:size]
    cells += candidate
    np.tanh(cells, out=candidate)
    np.multiply(candidate, output, out=before[:size])
    after = np.ascontiguousarray(before.T)
    return after[:, :size], after


def _gru_step(size: int, of_input: Array, of_output: Array, bias_in: Array, bias_out: Array, features: Array,
              memory: Array) -> tuple[Array, Array]:  # fmt: skip
    before = memory.T.copy()  # of its own also where there is one row
    inner = of_output @ before
    inner += bias_out
    gates = of_input @ np.ascontiguousarray(features.T)
    gates += bias_in
    opened, candidate = gates[: 2 * size], inner[2 * size :]
    opened += inner[: 2 * size]
    _sigmoid_(opened)
    candidate *= opened[:size]
    candidate += gates[2 * size :]
    np.tanh(candidate, out=candidate)
    before -= candidate
    before *= opened[size:]
    before += candidate
    after = np.ascontiguousarray(before.T)
    return after, after


class RecurrentEncoder(Features):
    """Features of an observation and of what was seen before it.

    Args:
        body: features of the observation alone.
        cell: of the core on top.
        units: H, features that go out.
    """

    def __init__(self, body: Features, cell: Cell, units: int) -> None:
        super().__init__()
        self.body = body
        self.core = Recurrent(cell, body.size, units)
        self.size, self.memory_size = self.core.size, self.core.memory_size

    def step(self, obs: Nested, memory: Tensor) -> tuple[Tensor, Tensor]:
        """As `Recurrent.step`, from observations `[N, ...]`."""
        return self.core.step(self.body(obs), memory)

    def unroll(self, obs: Nested, memory: Tensor, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As `Recurrent.unroll`, from observations `[T, N, ...]`."""
        steps, rows = leading_axes(obs)
        features: Tensor = self.body(tree_map(lambda leaf: leaf.flatten(0, 1), obs))
        return self.core.unroll(features.view(steps, rows, self.body.size), memory, reset)

    def unroll_in_parts(self, obs: Nested, memory: Tensor, reset: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """As `unroll`, in parts of so many steps.

        Returns:
            Outputs `[T, N, H]`, and what is remembered before each part, part after part, `[parts * N, M]`.
        """
        outputs, starts = [], []
        for first in range(0, len(reset), length):
            part = slice(first, first + length)
            starts.append(memory)
            out, memory = self.unroll(tree_map(lambda leaf, part=part: leaf[part], obs), memory, reset[part])
            outputs.append(out)
        return torch.cat(outputs), torch.cat(starts)
