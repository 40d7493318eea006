"""Which network: by name, from layers, or the user's own; what is kept of it opens again."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

import wiserl
from tests import networks
from wiserl.agent.catalogue import algorithm_class
from wiserl.cli.main import cli
from wiserl.core.config import make_config, to_plain
from wiserl.core.spec import EnvSpec
from wiserl.experiment.options import resolve
from wiserl.net.acting import numpy_features
from wiserl.net.choice import KINDS, NetworkConfig, as_net, is_recurrent, make_encoder, with_net
from wiserl.net.encoder import Encoder, Features, FlatPixels, orthogonal_
from wiserl.net.images import ImpalaCNN, NatureCNN
from wiserl.util.errors import InputError

VECTOR = spaces.Box(-1.0, 1.0, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (40, 36, 3), np.uint8)
MIXED = spaces.Dict(image=spaces.Box(0, 255, (12, 12, 1), np.uint8), more=VECTOR)
LAYERS = [{"type": "linear", "in_features": 4, "out_features": 16}, {"type": "tanh"}]
DISCRETE, BOX = ("dqn", "qrdqn", "sarsa", "ppo", "sac"), ("ddpg", "td3", "sac", "ppo")


def encoder(space, **options):
    torch.manual_seed(0)
    return make_encoder(space, NetworkConfig(**options))


def equal(one, other):
    mine, theirs = one.state_dict(), other.state_dict()
    return list(mine) == list(theirs) and all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize(
    "space", [VECTOR, IMAGE, MIXED, spaces.Discrete(3)], ids=["vector", "image", "mixed", "discrete"]
)
def test_auto_is_the_encoder_there_always_was(space):
    torch.manual_seed(0)
    expected = Encoder(space, (64, 64), "tanh")
    assert equal(encoder(space), expected)
    if space in (IMAGE, MIXED):
        assert equal(encoder(space, net="cnn"), expected)
    else:
        assert equal(encoder(space, net="mlp"), expected)


@pytest.mark.parametrize(
    ("net", "kind", "size"), [("mlp", FlatPixels, 64), ("cnn", NatureCNN, 512), ("impala_cnn", ImpalaCNN, 256)]
)
def test_a_name_says_what_images_go_through(net, kind, size):
    for space in (IMAGE, MIXED):
        found = encoder(space, net=net)
        assert [
            type(module) for module in found.modules() if isinstance(module, FlatPixels | NatureCNN | ImpalaCNN)
        ] == [kind]
        assert found.size == (size if space is IMAGE else 64)
        assert found.memory_size == 0


@pytest.mark.parametrize("shape", [(1, 1, 3), (7, 9, 1), (64, 64, 3), (84, 84, 4), (4, 33, 20)])
def test_the_residual_network_takes_images_of_any_size(shape):
    network = ImpalaCNN(spaces.Box(0, 255, shape, np.uint8))
    image = torch.randint(0, 256, (2, *shape), dtype=torch.uint8)
    features = network(image)
    assert features.shape == (2, 256)
    assert network(image[:0]).shape == (0, 256)
    assert sum(isinstance(module, nn.Conv2d) for module in network.modules()) == 15


def test_the_residual_network_has_the_published_shape():
    network = ImpalaCNN(spaces.Box(0, 255, (72, 96, 3), np.uint8))
    assert network.head.in_features == 32 * 9 * 12
    unit = ImpalaCNN(spaces.Box(0.0, 1.0, (72, 96, 3), np.float32))
    unit.load_state_dict(network.state_dict())
    image = torch.randint(0, 256, (2, 72, 96, 3), dtype=torch.uint8)
    torch.testing.assert_close(network(image), unit(image / 255))


def test_pixels_side_by_side_are_scaled_and_complete():
    image = torch.randint(0, 256, (2, *IMAGE.shape), dtype=torch.uint8)
    pixels = FlatPixels(IMAGE)(image)
    assert pixels.shape == (2, 40 * 36 * 3)
    torch.testing.assert_close(pixels.sum(), (image / 255).sum())
    assert numpy_features(encoder(IMAGE, net="mlp", activation="relu")) is None


@pytest.mark.parametrize(
    ("options", "space", "parts"),
    [
        ({"net": "cnn"}, VECTOR, ["net=cnn", "(3,)", "needs an image", "use net=mlp, or auto"]),
        ({"net": "impala_cnn"}, spaces.Dict(a=VECTOR), ["net=impala_cnn", "needs an image"]),
        ({"net": "cnn_rnn"}, VECTOR, ["net=cnn_rnn", "needs an image", "use net=rnn"]),
        ({"net": "cnn"}, spaces.Box(0, 255, (6, 30, 3), np.uint8), ["6×30 pixels", "8×8 or more", "impala_cnn"]),
        ({"net": "lstm_cnn"}, spaces.Box(0, 255, (6, 30, 3), np.uint8), ["6×30 pixels", "use net=rnn"]),
    ],
)
def test_a_network_that_does_not_fit_the_observation_is_refused(options, space, parts):
    with pytest.raises(InputError) as caught:
        encoder(space, **options)
    for part in parts:
        assert part in str(caught.value)


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(InputError, match=r"unknown network 'impala': did you mean 'impala_cnn'\?.*module:Class"):
        NetworkConfig(net="impala")
    with pytest.raises(InputError, match=r"net=lstm_cnn with cell=gru.*use net=cnn_rnn with cell=gru"):
        NetworkConfig(net="lstm_cnn", cell="gru")


def spec(action):
    return EnvSpec("test", VECTOR, action)


WITHOUT_MEMORY = [algo for algo in sorted({*DISCRETE, *BOX}) if not algorithm_class(algo).recurrent]


@pytest.mark.parametrize("algo", WITHOUT_MEMORY)
@pytest.mark.parametrize("net", [name for name in KINDS if is_recurrent(name)])
def test_memory_is_refused_by_what_cannot_learn_it(algo, net):
    algorithm = algorithm_class(algo)
    action = spaces.Discrete(2) if algo in DISCRETE else spaces.Box(-1.0, 1.0, (2,))
    with pytest.raises(InputError, match=f"{algo} cannot learn net={net}, which has memory: use net=auto, mlp"):
        algorithm(spec=spec(action), config=algorithm.config_class(net=net))


@pytest.mark.parametrize(
    "net",
    ["auto", "tests.networks:made", [{"type": "linear", "in_features": 3, "out_features": 5}, {"type": "tanh"}]],
    ids=["auto", "own", "layers"],
)
@pytest.mark.parametrize(("algo", "action"), [*((algo, spaces.Discrete(2)) for algo in DISCRETE),
                                              *((algo, spaces.Box(-1.0, 1.0, (2,))) for algo in BOX)])  # fmt: skip
def test_every_algorithm_is_built_of_it_and_acts(algo, action, net):
    algorithm = algorithm_class(algo)
    config = algorithm.config_class(net=net)
    agent = algorithm(spec=spec(action), config=config)
    agent.start_learning()
    chosen = agent.choose_action(np.zeros((2, 1, 3), np.float32), deterministic=True)["action"]
    assert chosen.shape == (2, 1, *action.shape)
    assert make_config(algorithm.config_class, json.loads(json.dumps(to_plain(config))), algo) == config
    networks_inside = [module for module in agent.policy.modules() if isinstance(module, Features)]
    assert all(type(module) is type(make_encoder(VECTOR, config)) for module in networks_inside)
    assert networks_inside


def test_a_configuration_without_the_field_is_as_before():
    old = {"learning_rate": 1e-3, "hidden_sizes": [8], "activation": "relu"}
    config = make_config(algorithm_class("ppo").config_class, old, "ppo")
    assert config.net == "auto"
    torch.manual_seed(0)
    assert equal(make_encoder(VECTOR, config), encoder(VECTOR, hidden_sizes=(8,), activation="relu"))


def test_a_file_is_kept_as_its_layers(tmp_path):
    path = tmp_path / "net.json"
    path.write_text(json.dumps(LAYERS), encoding="utf-8")
    for given in (path, str(path)):
        assert as_net(given) == LAYERS
    _, config = resolve("dqn", "CartPole-v1", {"net": str(path), "rainbow": True})
    assert config.net == LAYERS
    assert to_plain(config)["net"] == LAYERS


@pytest.mark.parametrize("given", [networks.Wide, networks.made], ids=["class", "function"])
def test_an_own_network_is_kept_by_its_name(given):
    name = f"tests.networks:{given.__name__}"
    assert with_net({"network": given, "seed": 1}) == {"net": name, "seed": 1}
    assert with_net({"net": given}) == with_net({"net": name}) == {"net": name}
    _, config = resolve("ppo", "CartPole-v1", {"network": given})
    assert config.net == name


def test_network_and_net_at_once_are_refused():
    with pytest.raises(InputError, match="both name the network"):
        with_net({"network": networks.Wide, "net": "mlp"})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (nn.Linear(3, 4), "expected a class or function of a module"),
        (lambda space: nn.Linear(3, 4), "known within a function only.*Move it into a module"),
        (type("Wide", (nn.Module,), {"__module__": "tests.networks"}), "something else than what was given"),
        (type("Lost", (nn.Module,), {"__module__": "tests.networks"}), "cannot be imported.*Lost"),
        (type("Scripted", (nn.Module,), {"__module__": "__main__"}), r"known within a script \(__main__\) only"),
    ],
    ids=["module", "lambda", "other", "lost", "main"],
)
def test_what_could_not_be_found_again_is_refused_at_once(given, message):
    with pytest.raises(InputError, match=message):
        as_net(given)


@pytest.mark.parametrize(
    ("name", "space", "message"),
    [
        ("tests.nowhere:Wide", VECTOR, "cannot be imported.*tests.nowhere.*installed or in the current folder"),
        ("tests.networks:Nobody", VECTOR, "cannot be imported.*Nobody"),
        ("tests.networks:NOTHING", VECTOR, "is 3: expected a class or function"),
        ("tests.networks:no_module", VECTOR, "made Box.*expected an nn.Module"),
        ("tests.networks:too_narrow", VECTOR, r"fails on 3 observations.*float32 \[3, 3\].*expected features \[3, F\]"),
        ("tests.networks:without_features", IMAGE, r"gives torch.uint8 \[3, 40, 36, 3\].*expected features"),
        ("tests.networks:Double", VECTOR, "has parameters of torch.float64: expected torch.float32"),
    ],
)
def test_an_own_network_that_is_none_is_refused(name, space, message):
    with pytest.raises(InputError, match=message):
        encoder(space, net=name)


def test_an_own_network_is_used_as_it_was_made():
    found = encoder(VECTOR, net="tests.networks:Wide")
    assert found.size == 7
    assert found(torch.zeros(0, 3)).shape == (0, 7)
    orthogonal_(found)
    assert (found.network.layers[1].weight == 1).all(), "weights of the user's own were drawn anew"
    assert numpy_features(found) is None


def test_trying_an_own_network_changes_nothing_in_it():
    found = encoder(spaces.Dict(a=VECTOR, b=spaces.Box(-1, 1, (2,))), net="tests.networks:Entries")
    assert found.size == 5
    assert found.network.training
    assert int(found.network.norm.num_batches_tracked) == 0


@pytest.mark.parametrize("how", ["name", "layers", "own"])
def test_a_checkpoint_opens_and_resumes_without_it_being_named_again(how, tmp_path):
    net = {"name": "mlp", "layers": str(tmp_path / "net.yaml"), "own": networks.Wide}[how]
    (tmp_path / "net.yaml").write_text(
        "- {type: linear, in_features: 4, out_features: 6}\n- {type: relu}\n", encoding="utf-8"
    )
    options = {"total_steps": 256, "envs": 2, "eval_episodes": 1, "quiet": True, "n_steps": 64, "vector": "inline"}
    folder = tmp_path / "run"
    wiserl.train("ppo", "CartPole-v1", network=net, run_dir=folder, **options)
    (tmp_path / "net.yaml").unlink()
    policy = wiserl.load(folder)
    assert policy.choose_action(np.zeros(4, np.float32)) in (0, 1)
    layers = [{"type": "linear", "in_features": 4, "out_features": 6}, {"type": "relu"}]
    kept = {"name": "mlp", "layers": layers, "own": "tests.networks:Wide"}[how]
    assert policy.manifest["config"]["net"] == kept
    with pytest.raises(InputError, match="train anew to change it"):
        wiserl.train("ppo", "CartPole-v1", resume=folder, network=networks.made, quiet=True)
    summary = wiserl.train("ppo", "CartPole-v1", resume=folder, total_steps=512, network=kept, quiet=True)
    assert summary["env_steps"] == 512


SHORT = ("--total-steps", "128", "--envs", "2", "--eval-episodes", "1", "--set", "n_steps=64")


def test_the_command_line_finds_a_network_in_its_folder_and_elsewhere_it_is_missed(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\n\ndef net(space):\n    return nn.Linear(4, 6)\n", encoding="utf-8"
    )
    command = [sys.executable, "-m", "wiserl", "train", "ppo", "CartPole-v1", *SHORT, "--run-dir", "run"]
    done = subprocess.run(
        [*command, "--net", "mine:net"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    with pytest.raises(InputError, match=r"network 'mine:net' cannot be imported.*No module named 'mine'"):
        wiserl.load(tmp_path / "run")


def on_command_line(*arguments):
    cli.main(["train", "ppo", "CartPole-v1", *SHORT, *arguments], standalone_mode=False)


def test_the_command_line_takes_a_file_of_layers(tmp_path):
    (tmp_path / "net.json").write_text(json.dumps(LAYERS), encoding="utf-8")
    on_command_line("--quiet", "--net", str(tmp_path / "net.json"), "--run-dir", str(tmp_path / "run"))
    kept = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))
    assert kept["hyperparameters"]["net"] == LAYERS


@pytest.mark.parametrize(
    ("net", "part"), [("cnn", "needs an image"), ("cn", "did you mean 'cnn'"), ("no.json", "cannot be read")]
)
def test_the_command_line_refuses_a_network_before_it_begins(net, part, tmp_path):
    with pytest.raises(InputError, match=part):
        on_command_line("--net", net, "--run-dir", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_learning_moves_the_network_of_ones_own(tmp_path):
    """DQN and SAC learn its weights; targets and critics have their own."""
    for algo, env, options in (("dqn", "CartPole-v1", {"noisy": True}), ("sac", "Pendulum-v1", {})):
        options = {
            **options,
            "total_steps": 320,
            "learning_starts": 64,
            "eval_episodes": 1,
            "envs": 2,
            "vector": "inline",
        }
        with wiserl.by_hand(algo, env, network=networks.Wide, run_dir=tmp_path / algo, **options) as run:
            before = run.algorithm.flat.detach().clone()
            run.run()
            assert run.updates
            assert not torch.equal(run.algorithm.flat, before)


def test_noise_on_a_layer_without_a_bias_is_refused():
    layers = [{"type": "linear", "in_features": 3, "out_features": 5, "bias": False}]
    algorithm = algorithm_class("dqn")
    with pytest.raises(InputError, match="noisy=true with a linear layer without bias"):
        algorithm(spec=spec(spaces.Discrete(2)), config=algorithm.config_class(net=layers, noisy=True))
