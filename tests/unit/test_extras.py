"""A user's own algorithm, trained by its class: its name, its config, and what it stores with each transition."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import wiserl
from tests.algorithms import RememberingDQN, Unfinished, no_algorithm
from tests.envs import BoxObs, Chain
from wiserl.agent.catalogue import algorithm_class, algorithm_name
from wiserl.agent.dqn import DQN, DQNConfig
from wiserl.agent.ppo import PPO
from wiserl.agent.td3 import TD3
from wiserl.experiment.options import presets, resolve
from wiserl.run_folder.checkpoint import open_checkpoint
from wiserl.util.errors import InputError

NAME = "tests.algorithms:RememberingDQN"
OPTIONS: dict[str, Any] = {
    "total_steps": 256,
    "envs": 2,
    "vector": "inline",
    "device": "cpu",
    "hidden_sizes": (8,),
    "learning_starts": 32,
    "buffer_size": 500,
    "batch_size": 8,
    "round_steps": 16,
}


@pytest.fixture(autouse=True)
def nothing_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test begins as a new process does."""
    monkeypatch.setattr("wiserl.agent.catalogue._given", {})


def train(algo: Any, folder: Path, env: Any = Chain, **changes: Any) -> dict[str, Any]:
    options = OPTIONS | {"run_dir": folder, "backend": "local", "quiet": True, "eval_episodes": 2} | changes
    return wiserl.train(algo, env, **options)


def weights_file(folder: Path) -> bytes:
    return (open_checkpoint(folder).path / "weights.safetensors").read_bytes()


# ---- extras


@pytest.mark.parametrize("prioritized", [False, True])
def test_an_extra_declared_in_one_line_reaches_the_update_with_what_was_acted_on(tmp_path, prioritized):
    """Nothing is learned yet: the value of each stored transition is what the untouched network says of its observation."""
    with wiserl.by_hand(RememberingDQN, BoxObs, run_dir=tmp_path, prioritized=prioritized, **OPTIONS) as run:
        run.warm_up(64)
        batch = run.algorithm.replay.sample(50)
        with torch.no_grad():
            expected = run.algorithm.policy(torch.from_numpy(batch["obs"])).amax(1).numpy()
        assert np.allclose(batch["value"], expected, atol=1e-6)
        assert len(set(batch["value"].tolist())) > 1
        seen = []
        learn = run.algorithm.learn
        run.algorithm.learn = lambda batch, rate: seen.append(batch["value"].clone()) or learn(batch, rate)
        logs = run.step()
        assert np.isin(np.round(seen[0].numpy(), 5), np.round(batch["value"], 5)).all()
        assert abs(logs["losses/value_change"]) < 1.0


@pytest.mark.parametrize("prioritized", [False, True])
def test_what_an_update_writes_back_is_what_the_next_batch_has(tmp_path, prioritized):
    """Also within one call of `update`, which does eight updates here: each batch has what the ones before it wrote."""
    options = OPTIONS | {"gradient_steps": 4, "train_freq": 8, "batch_size": 32, "forget": 100.0}
    with wiserl.by_hand(RememberingDQN, BoxObs, run_dir=tmp_path, prioritized=prioritized, **options) as run:
        run.warm_up(64)
        written: dict[int, float] = {}
        checked = 0
        learn, write = run.algorithm.learn, run.algorithm.replay.write

        def spy_learn(batch: dict[str, Any], rate: float) -> Any:
            nonlocal checked
            for index, value in zip(batch["index"].tolist(), batch["value"].tolist(), strict=True):
                assert value == written.get(index, value)
                assert (value > 50.0) == (index in written)
                checked += index in written
            return learn(batch, rate)

        def spy_write(index: Any, name: str, values: Any) -> None:
            written.update(zip(index.tolist(), values.tolist(), strict=True))
            write(index, name, values)

        run.algorithm.learn, run.algorithm.replay.write = spy_learn, spy_write
        run.step()
        assert run.updates == 8
        assert checked > 50


def test_extras_come_back_with_the_replay_of_a_resumed_run(tmp_path):
    """Stopped at a boundary and resumed, by name, the run ends as one that was not stopped: what was written back counts."""
    train(RememberingDQN, tmp_path / "whole", "tests.envs:Chain", checkpoint_every=128)
    with wiserl.by_hand(
        RememberingDQN, "tests.envs:Chain", run_dir=tmp_path / "half", checkpoint_every=128, **OPTIONS
    ) as run:
        while run.env_steps < 128:
            run.step()
    with wiserl.by_hand(NAME, "tests.envs:Chain", resume=tmp_path / "half") as run:
        run.run()
        stored = run.algorithm.replay.state_dict()
    assert weights_file(tmp_path / "half") == weights_file(tmp_path / "whole")
    whole = open_checkpoint(tmp_path / "whole").replay()
    assert np.array_equal(stored[stored["fields"]["value"]], whole[whole["fields"]["value"]])


def test_an_extra_that_choose_action_does_not_return_is_named(tmp_path):
    class Forgetful(DQN):
        extras: ClassVar[tuple[str, ...]] = ("value",)

    with pytest.raises(ValueError, match=r"fragment lacks \['value'\], to be stored in the replay"):
        train(Forgetful, tmp_path)


# ---- the class of a user's own algorithm, where a name is expected


def test_a_class_is_trained_saved_by_its_name_and_opened_by_it(tmp_path, monkeypatch):
    summary = train(RememberingDQN, tmp_path / "class", forget=0.5)
    assert summary["algo"] == NAME
    assert open_checkpoint(tmp_path / "class").manifest["algo"] == NAME
    config = json.loads((tmp_path / "class" / "config.json").read_text())
    assert (config["algo"], config["hyperparameters"]["forget"]) == (NAME, 0.5)
    monkeypatch.setattr("wiserl.agent.catalogue._given", {})
    assert wiserl.load(tmp_path / "class").choose_action(np.eye(5, dtype=np.float32)[0]) in (0, 1)
    assert train(NAME, tmp_path / "name", forget=0.5)["algo"] == NAME
    assert weights_file(tmp_path / "class") == weights_file(tmp_path / "name")


def test_a_run_goes_on_under_the_name_it_was_begun_with(tmp_path):
    """Of a class that was found in another module than its own."""
    name = "tests.algorithms:DQN"
    train(name, tmp_path / "run")
    assert train(name, None, resume=tmp_path / "run", total_steps=2 * OPTIONS["total_steps"])["algo"] == name


def test_a_subclass_that_changes_nothing_trains_as_the_built_in_one(tmp_path):
    class Same(DQN):
        pass

    train(Same, tmp_path / "same")
    train("dqn", tmp_path / "dqn")
    train(DQN, tmp_path / "class")
    assert weights_file(tmp_path / "same") == weights_file(tmp_path / "dqn") == weights_file(tmp_path / "class")
    assert open_checkpoint(tmp_path / "class").manifest["algo"] == "dqn"


def test_names_of_classes():
    assert [algorithm_name(algo) for algo in ("x", DQN, PPO, TD3, RememberingDQN)] == ["x", "dqn", "ppo", "td3", NAME]


def test_a_class_has_its_own_defaults_and_not_the_preset_of_the_one_it_derives_from(tmp_path):
    class Mine(RememberingDQN):
        pass

    with wiserl.by_hand(Mine, "CartPole-v1", total_steps=1_000, run_dir=tmp_path / "run") as run:
        assert (run.algorithm.config.n_step, run.runner.args.envs) == (DQNConfig().n_step, 8)
    _, config = resolve(DQN, "CartPole-v1", {})
    assert config.n_step == presets()["dqn"]["CartPole-v1"]["n_step"] == 10


def test_a_folder_is_named_after_the_class(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train(RememberingDQN, None)["run_dir"] == "runs/tests.algorithms-RememberingDQN-tests.envs-Chain-s0"


def test_a_class_that_was_handed_over_counts_before_one_that_could_be_imported():
    other = type("RememberingDQN", (DQN,), {"__module__": "tests.algorithms"})
    assert algorithm_class(NAME) is RememberingDQN
    assert algorithm_class(other) is other
    assert algorithm_class(NAME) is other


@pytest.mark.parametrize(
    ("algo", "message"),
    [
        ("tests.nowhere:DQN", "algorithm 'tests.nowhere:DQN' cannot be imported .No module named 'tests.nowhere'"),
        ("tests.algorithms:DQM", "has no attribute 'DQM'.*move it to a module"),
        ("__main__:Gone", "A class of a script .__main__. is known in that script alone"),
        (":DQN", "cannot be imported"),
        (
            "tests.algorithms:no_algorithm",
            "is no algorithm: expected a subclass of wiserl.agent.base.algorithm.Algorithm",
        ),
        (no_algorithm, "is no algorithm"),
        (Chain, "is no algorithm"),
        (Unfinished, "Unfinished is incomplete: it lacks _build, choose_action, steps_per_fragment, update"),
        ("dqm", "unknown algorithm 'dqm': did you mean 'dqn'"),
    ],
)
def test_what_is_no_algorithm_is_refused(tmp_path, algo, message):
    with pytest.raises(InputError, match=message):
        train(algo, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_resumed_with_another_class(tmp_path):
    train(RememberingDQN, tmp_path, "tests.envs:Chain")
    with pytest.raises(InputError, match=f"trains {NAME} on tests.envs:Chain, not dqn on tests.envs:Chain"):
        train(DQN, None, "tests.envs:Chain", resume=tmp_path)
    with pytest.raises(
        InputError, match=r"unknown option 'forgot' for tests\.algorithms:RememberingDQN: did you mean 'forget'"
    ):
        train(RememberingDQN, tmp_path / "other", forgot=1)
