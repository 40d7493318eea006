"""A user's transitions become fragments that replay samples as they were; what does not fit is refused by name."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from wiserl.core.batch import Fragment, check_fragment
from wiserl.core.spec import EnvSpec
from wiserl.replay import dataset
from wiserl.replay.dataset import load_dataset, spread
from wiserl.replay.uniform import Replay
from wiserl.util.errors import InputError

LINE = spaces.Box(-np.inf, np.inf, (1,), np.float64)
SPEC = EnvSpec("x", LINE, spaces.Box(-2.0, 2.0, (1,), np.float32))
FEW_STEPS = st.sampled_from([1, 2, 7, 1000])


def episodes(rng: np.random.Generator, number: int) -> list[dict[str, np.ndarray]]:
    """Episodes of 1 to 9 steps, each terminated, truncated or going on; no observation occurs twice."""
    made, clock = [], 0
    for _ in range(number):
        steps = int(rng.integers(1, 10))
        obs = np.arange(clock, clock + steps + 1, dtype=np.float64)[:, None]
        ends = {name: np.zeros(steps, np.bool_) for name in ("terminations", "truncations")}
        ends[("terminations", "truncations")[rng.integers(2)]][-1] = True
        made.append({"observations": obs[:-1], "next_observations": obs[1:], **ends})
        made[-1] |= {"actions": obs[:-1] % 5 - 2, "rewards": 0.5 * obs[:-1, 0]}
        clock += steps + 1
    return made


def joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def saved(path: Path, arrays: dict[str, Any]) -> str:
    np.savez(path / "data.npz", **arrays)
    return str(path / "data.npz")


def replayed(source: str, spec: EnvSpec = SPEC, n_step: int = 1) -> dict[float, tuple[float, ...]]:
    """What is sampled of each transition, by its observation: action, reward, next observation, terminated, discount."""
    return replayed_from(load_dataset(source, spec), 1, 10_000, n_step)


def replayed_from(
    fragments: Iterable[Fragment], streams: int, capacity: int, n_step: int = 1
) -> dict[float, tuple[float, ...]]:
    replay = Replay(capacity, streams, seed=0, n_step=n_step, gamma=0.5)
    for fragment in fragments:
        check_fragment(fragment)
        replay.add(fragment)
    batch = replay.sample(30 * len(replay))
    names = ("action", "reward", "next_obs", "terminated", "discount")
    columns = [batch["obs"], *(batch[name] for name in names)]
    rows = zip(*(column.reshape(len(column), -1)[:, 0].tolist() for column in columns), strict=True)
    found = {obs: rest for obs, *rest in rows}
    assert len(found) == len(replay)
    return {obs: tuple(rest) for obs, rest in found.items()}


@given(seed=st.integers(0, 2**32 - 1), number=st.integers(1, 6), steps=FEW_STEPS)
def test_transitions_with_next_observations_come_back_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, seed: int, number: int, steps: int
) -> None:
    rng = np.random.default_rng(seed)
    arrays = joined(episodes(rng, number))
    if rng.random() < 0.5:
        order = rng.permutation(len(arrays["rewards"]))
        arrays = {name: array[order] for name, array in arrays.items()}
    expected = {
        float(obs): (action / 2, reward, float(after), bool(terminated), 0.5)
        for obs, action, reward, after, terminated in zip(
            *(
                arrays[name].reshape(-1).tolist()
                for name in ("observations", "actions", "rewards", "next_observations", "terminations")
            ),
            strict=True,
        )
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "FRAGMENT_STEPS", steps)
        assert replayed(saved(tmp_path_factory.mktemp("data"), arrays)) == expected


@given(seed=st.integers(0, 2**32 - 1), number=st.integers(2, 6), steps=FEW_STEPS)
def test_without_next_observations_all_but_truncated_ones_and_the_last_come_back(
    tmp_path_factory: pytest.TempPathFactory, seed: int, number: int, steps: int
) -> None:
    parts = episodes(np.random.default_rng(seed), number)
    for ends in (parts[0], parts[-1]):  # one that terminates, and one that goes on at the end of the file
        for name in ("terminations", "truncations"):
            ends[name][-1] = name == "terminations" and ends is parts[0]
    arrays = joined(parts)
    expected: dict[float, tuple[float, ...]] = {}
    for part in parts:
        length, terminates = len(part["rewards"]), bool(part["terminations"][-1])
        for i in range(length if terminates else length - 1):
            obs = float(part["observations"][i, 0])
            last = terminates and i == length - 1
            expected[obs] = (part["actions"][i, 0] / 2, part["rewards"][i], obs if last else obs + 1, last, 0.5)
    del arrays["next_observations"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "FRAGMENT_STEPS", steps)
        assert replayed(saved(tmp_path_factory.mktemp("data"), arrays)) == expected


def line(**changes: Any) -> dict[str, Any]:
    """Six transitions 0, 1, ... 5 of one episode that goes on."""
    flags = np.zeros(6, np.bool_)
    arrays = {"observations": np.arange(6.0)[:, None], "actions": np.zeros((6, 1), np.float32), "rewards": np.ones(6)}
    return arrays | {"terminations": flags, "truncations": flags} | changes


def test_windows_go_on_within_an_episode_and_stop_at_a_gap(tmp_path: Path) -> None:
    after = np.array([1, 2, 30, 4, 5, 6], np.float64)[:, None]
    rows = replayed(saved(tmp_path, line(next_observations=after)), n_step=2)
    assert {obs: (row[1], row[2], row[4]) for obs, row in rows.items()} == {
        0: (1.5, 2, 0.25),
        1: (1.5, 30, 0.25),
        2: (1, 30, 0.5),
        3: (1.5, 5, 0.25),
        4: (1.5, 6, 0.25),
        5: (1, 6, 0.5),
    }


def test_windows_go_on_across_fragments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "FRAGMENT_STEPS", 2)
    rows = replayed(saved(tmp_path, line()), n_step=4)
    assert {obs: (row[1], row[2]) for obs, row in rows.items()} == {
        0: (1.875, 4),
        1: (1.875, 5),
        2: (1.75, 5),
        3: (1.5, 5),
        4: (1, 5),
    }


def test_a_fragment_ends_with_the_observation_that_the_next_one_begins_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "FRAGMENT_STEPS", 2)
    fragments = list(load_dataset(saved(tmp_path, line()), SPEC))
    assert [fragment["last_obs"].item() for fragment in fragments] == [2, 4, 5]
    assert [fragment["fresh"].item() for fragment in fragments] == [True, False, False]


def test_gaps_are_found_between_observations_without_axes(tmp_path: Path) -> None:
    arrays = line(observations=np.arange(6), next_observations=np.array([1, 2, 7, 4, 5, 6]))
    (fragment,) = load_dataset(saved(tmp_path, arrays), EnvSpec("x", spaces.Discrete(9), SPEC.action_space))
    assert fragment["final_at"].tolist() == [[2, 0], [5, 0]]
    assert fragment["final_obs"].tolist() == [[7], [6]]


def test_termination_wins_over_truncation_as_in_fragments(tmp_path: Path) -> None:
    flags = np.arange(6) == 5
    rows = replayed(saved(tmp_path, line(terminations=flags, truncations=flags)))
    assert rows[5] == (0, 1, 5, True, 0.5)


def test_the_names_of_d4rl_are_understood_and_other_arrays_left_alone(tmp_path: Path) -> None:
    arrays = line(infos=np.array([None]))
    arrays["terminals"], arrays["timeouts"] = (
        arrays.pop("terminations") | (np.arange(6) == 2),
        arrays.pop("truncations"),
    )
    assert replayed(saved(tmp_path, arrays))[2] == (0, 1, 2, True, 0.5)


def test_nested_observations_have_an_array_per_entry_and_counts_begin_at_zero(tmp_path: Path) -> None:
    space = spaces.Dict(
        {"at": LINE, "deep": spaces.Tuple((spaces.Discrete(9, start=3), spaces.Box(0, 255, (2,), np.uint8)))}
    )
    spec = EnvSpec("x", space, spaces.Discrete(3, start=-1))
    arrays = line(actions=np.array([-1, 0, 1, -1, 0, 1], np.int32))
    arrays["observations/at"] = arrays.pop("observations")
    arrays["observations/deep/0"] = np.arange(3, 9)
    arrays["observations/deep/1"] = np.arange(12, dtype=np.uint8).reshape(6, 2)
    (fragment,) = load_dataset(saved(tmp_path, arrays), spec)
    check_fragment(fragment)
    assert fragment["action"].tolist() == [[[0]], [[1]], [[2]], [[0]], [[1]]]
    assert fragment["action"].dtype == np.int64
    assert fragment["obs"]["at"].dtype == np.float32
    assert fragment["obs"]["deep"]["0"].tolist() == [[[i]] for i in range(5)]
    assert fragment["final_obs"]["deep"]["1"].tolist() == [[[10, 11]]]
    assert fragment["final_at"].tolist() == [[4, 0]]
    assert fragment["fresh"].tolist() == [True]
    assert fragment["stream"].tolist() == [0]


@pytest.mark.parametrize(
    ("space", "given", "policy"),
    [
        (spaces.MultiDiscrete([2, 3], start=[0, 5]), np.array([[0, 5], [1, 7]] * 3), [[0, 0], [1, 2]]),
        (spaces.MultiBinary(2), np.array([[True, False], [False, True]] * 3), [[1, 0], [0, 1]]),
        (spaces.Box(0, 10, (2,), np.float32), np.array([[0, 5], [2.5, 10.0001]] * 3), [[-1, 0], [-0.5, 1]]),
        (spaces.Box(-np.inf, np.inf, (1,), np.float32), np.array([[7.0], [-9.0]] * 3), [[7], [-9]]),
    ],
    ids=str,
)
def test_actions_become_those_of_a_policy(tmp_path: Path, space: Any, given: np.ndarray, policy: list[Any]) -> None:
    (fragment,) = load_dataset(saved(tmp_path, line(actions=given)), EnvSpec("x", LINE, space))
    np.testing.assert_allclose(fragment["action"][:2, 0, 0], policy, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": None}, "no array 'rewards'; it has actions, observations, terminations, truncations"),
        ({"observations": None}, "no array 'observations'"),
        ({"truncations": None}, "no array 'truncations'"),
        ({"rewards": np.ones((6, 1))}, r"'rewards' is float64 \[6, 1\]; expected float32 \[6\]"),
        ({"rewards": np.ones(0)}, r"'rewards' has shape \[0\]; expected \[N\]"),
        ({"rewards": np.float32(1)}, r"'rewards' has shape \[\]; expected \[N\]"),
        ({"observations": np.zeros((5, 1))}, r"'observations' is float64 \[5, 1\]; expected float32 \[6, 1\]"),
        ({"observations": np.zeros((6, 1), complex)}, "'observations' is complex128 .*expected float32"),
        ({"next_observations": np.zeros((6, 2))}, r"'next_observations' is float64 \[6, 2\]"),
        ({"observations": np.array([[np.nan], [1], [2], [3], [4], [5]])}, r"'observations' has nan at \[0, 0\]"),
        ({"observations": np.full((6, 1), 1e300)}, r"'observations' has 1e\+300 at \[0, 0\]; expected finite numbers"),
        ({"rewards": np.array([1, 1, 1, np.inf, 1, 1])}, r"'rewards' has inf at \[3\]"),
        ({"terminations": np.zeros(6, np.uint8)}, r"'terminations' is uint8 \[6\]; expected bool \[6\]"),
        ({"actions": np.zeros(6)}, r"'actions' is float64 \[6\]; expected float32 \[6, 1\]"),
        ({"actions": np.full((6, 1), 2.1)}, r"'actions' has 2.\d+ at \[0, 0\]; .*own units, Box\(-2.0, 2.0"),
        ({"actions": np.full((6, 1), np.nan)}, "'actions' has nan"),
        ({"truncations": np.ones(6, np.bool_)}, "none of its 6 transitions has a next observation"),
        ({"rewards": np.array([None] * 6)}, "'rewards' cannot be read .*expected numbers"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_refused_with_file_array_given_and_expected(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    arrays = {name: array for name, array in line(**changes).items() if array is not None}
    with pytest.raises(InputError, match=rf"data set '.*data\.npz'.*{message}"):
        load_dataset(saved(tmp_path, arrays), SPEC)


@pytest.mark.parametrize(
    ("space", "actions", "message"),
    [
        (spaces.Discrete(2), np.full(6, 2), r"'actions' has 2 at \[0\]; expected what Discrete\(2\)"),
        (spaces.Discrete(2, start=1), np.zeros(6, int), r"'actions' has -1 at \[0\]"),
        (spaces.Discrete(2), np.zeros(6), r"'actions' is float64 \[6\]; expected int64 \[6\]"),
        (spaces.MultiDiscrete([2, 3]), np.full((6, 2), 2), r"'actions' has 2 at \[0, 0\]"),
        (spaces.MultiBinary(2), np.full((6, 2), 2), r"'actions' has 2 at \[0, 0\]"),
        (spaces.Box(0, 100, (1,), np.int8), np.full((6, 1), 300), r"'actions' has 300 at \[0, 0\].*int8 can hold"),
    ],
)
def test_actions_that_a_space_does_not_have_are_refused(
    tmp_path: Path, space: Any, actions: np.ndarray, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        load_dataset(saved(tmp_path, line(actions=actions)), EnvSpec("x", LINE, space))


def test_observations_that_a_discrete_space_does_not_have_are_refused(tmp_path: Path) -> None:
    spec = EnvSpec("x", spaces.Discrete(5), SPEC.action_space)
    with pytest.raises(InputError, match=r"'observations' has 5 at \[5\]"):
        load_dataset(saved(tmp_path, line(observations=np.arange(6))), spec)


def test_what_is_no_npz_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.npz' is no file"):
        load_dataset(str(tmp_path / "nothing.npz"), SPEC)
    for name, content in (("text.npz", b"PK nothing"), ("empty.npz", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="cannot be read"):
            load_dataset(str(tmp_path / name), SPEC)
    np.save(tmp_path / "single.npy", np.zeros(3))
    with pytest.raises(InputError, match=r"is a single array; expected an \.npz"):
        load_dataset(str(tmp_path / "single.npy"), SPEC)


def test_an_env_of_several_agents_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has 2 agents; expected one"):
        load_dataset(saved(tmp_path, line()), EnvSpec("x", LINE, SPEC.action_space, ("a", "b")))


def fake_minari(found: list[Any]) -> Any:
    """What is read of the package minari: a data set of these episodes named "x/walk-v0"."""

    def load(name: str) -> Any:
        if name != "x/walk-v0":
            raise FileNotFoundError(name)
        return SimpleNamespace(iterate_episodes=lambda: (SimpleNamespace(**episode) for episode in found))

    return SimpleNamespace(load_dataset=load)


def minari_episode(first: float, steps: int, end: str | None) -> dict[str, Any]:
    at = np.arange(first, first + steps + 1)[:, None]
    flags = {name: (np.arange(steps) == steps - 1) & (name == end) for name in ("terminations", "truncations")}
    observations = {"at": at, "pair": (at + 0.5, np.arange(steps + 1))}
    return {"observations": observations, "actions": np.full((steps, 1), 2.0), "rewards": np.ones(steps), **flags}


def test_episodes_of_minari_come_back_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [minari_episode(0, 3, "terminations"), minari_episode(10, 2, "truncations"), minari_episode(20, 2, None)]
    monkeypatch.setitem(sys.modules, "minari", fake_minari(found))
    space = spaces.Dict({"at": LINE, "pair": spaces.Tuple((LINE, spaces.Discrete(9)))})
    replay = Replay(100, 1, seed=0, n_step=2, gamma=1.0)
    for fragment in load_dataset("minari:x/walk-v0", EnvSpec("x", space, SPEC.action_space)):
        check_fragment(fragment)
        replay.add(fragment)
    assert len(replay) == 7
    batch = replay.sample(300)
    np.testing.assert_array_equal(batch["obs"]["pair"]["0"], batch["obs"]["at"] + 0.5)
    assert (batch["action"] == 1).all()
    columns = (batch["obs"]["at"][:, 0], batch["next_obs"]["at"][:, 0], batch["terminated"], batch["reward"])
    assert set(zip(*(column.tolist() for column in columns), strict=True)) == {
        (0, 2, False, 2),
        (1, 3, True, 2),
        (2, 3, True, 1),
        (10, 12, False, 2),
        (11, 12, False, 1),
        (20, 22, False, 2),
        (21, 22, False, 1),
    }


def test_an_episode_of_minari_that_does_not_fit_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = minari_episode(0, 3, "terminations") | {"rewards": np.array([1, np.nan, 1])}
    monkeypatch.setitem(sys.modules, "minari", fake_minari([minari_episode(0, 3, "terminations"), wrong]))
    space = spaces.Dict({"at": LINE, "pair": spaces.Tuple((LINE, spaces.Discrete(9)))})
    fragments = load_dataset("minari:x/walk-v0", EnvSpec("x", space, SPEC.action_space))
    next(fragments)
    with pytest.raises(InputError, match=r"'minari:x/walk-v0', episode 1: array 'rewards' has nan at \[1\]"):
        next(fragments)


def test_a_minari_data_set_that_is_not_there_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minari", fake_minari([]))
    with pytest.raises(InputError, match="run `minari download x/run-v1`"):
        load_dataset("minari:x/run-v1", SPEC)


def test_without_the_package_minari_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(InputError, match=r"pip install 'wiserl\[minari\]'"):
        load_dataset("minari:x/walk-v0", SPEC)


# ---- over several streams, beside others, with extras ----


@given(seed=st.integers(0, 2**32 - 1), number=st.integers(1, 8), steps=FEW_STEPS, streams=st.integers(1, 5))
def test_spread_over_streams_all_transitions_stay_and_cuts_bootstrap(
    tmp_path_factory: pytest.TempPathFactory, seed: int, number: int, steps: int, streams: int
) -> None:
    arrays = joined(episodes(np.random.default_rng(seed), number))
    source, total = saved(tmp_path_factory.mktemp("data"), arrays), len(arrays["rewards"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "FRAGMENT_STEPS", steps)
        fragments = list(load_dataset(source, SPEC))
    assert replayed_from(spread(fragments, streams), streams, capacity=-(-total // streams) * streams) == replayed(
        source
    )
    numbers = [len(fragment["reward"]) for fragment in spread(fragments, streams) if fragment["stream"][0] == 0]
    assert sum(numbers) == min(-(-total // streams), total)
    whole = list(spread(fragments, streams, whole_episodes=True))
    assert replayed_from(whole, streams, capacity=total * streams) == replayed(source)
    ends = {int(part["stream"][0]): bool((part["terminated"] | part["truncated"])[-1, 0, 0]) for part in whole}
    assert all(ends.values())  # as all episodes here do
    assert set(ends) == set(range(len(ends)))


def test_windows_stop_where_a_stream_ends(tmp_path: Path) -> None:
    steps = np.arange(8.0)
    ends = np.zeros(8, np.bool_)
    arrays = {"observations": steps[:, None], "next_observations": steps[:, None] + 1, "actions": np.zeros((8, 1))}
    source = saved(tmp_path, arrays | {"rewards": np.ones(8), "terminations": ends, "truncations": ends})
    found = replayed_from(spread(list(load_dataset(source, SPEC)), 2), 2, capacity=8, n_step=3)
    assert [found[obs][1:3] for obs in range(8)] == [
        (1.75, 3), (1.75, 4), (1.5, 4), (1.0, 4), (1.75, 7), (1.75, 8), (1.5, 8), (1.0, 8),
    ]  # fmt: skip


def test_more_streams_than_transitions(tmp_path: Path) -> None:
    arrays = joined(episodes(np.random.default_rng(0), 1))
    source = saved(tmp_path, arrays)
    assert replayed_from(spread(list(load_dataset(source, SPEC)), 50), 50, capacity=50) == replayed(source)


def test_extras_are_read_by_name(tmp_path: Path) -> None:
    arrays = joined(episodes(np.random.default_rng(0), 3))
    value = np.arange(len(arrays["rewards"]), dtype=np.float64)
    source = saved(tmp_path, arrays | {"value": value})
    replay = Replay(100, 1, seed=0, extras=("value",))
    for fragment in spread(list(load_dataset(source, SPEC, ("value",))), 1):
        replay.add(fragment)
    batch = replay.sample(500)
    assert batch["value"].dtype == np.float32  # as what an algorithm chooses is
    at = {float(obs): float(number) for obs, number in zip(arrays["observations"][:, 0], value, strict=True)}
    assert [at[obs] for obs in batch["obs"].ravel().tolist()] == batch["value"].ravel().tolist()


def test_extras_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    arrays = joined(episodes(np.random.default_rng(0), 1))
    source = saved(tmp_path, arrays | {"value": np.zeros(1000)})
    with pytest.raises(InputError, match=r"array 'value' is float64 \[1000\]; expected numbers \[\d, \.\.\.\]"):
        load_dataset(source, SPEC, ("value",))
    with pytest.raises(InputError, match="has no array 'other'"):
        load_dataset(source, SPEC, ("other",))
    with pytest.raises(InputError, match="'minari:x' has no value, which the algorithm stores"):
        load_dataset("minari:x", SPEC, ("value",))
