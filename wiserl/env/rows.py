"""One env as rows: a gymnasium env is one row, a PettingZoo parallel env one row per possible agent.

What trains on rows has no multi-agent branch: an agent that is gone is a row whose `alive` is False.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import gymnasium as gym
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation, MaxAndSkipObservation

from wiserl.core.actions import ActionCodec
from wiserl.core.masks import take_mask
from wiserl.core.observations import ObservationReader
from wiserl.core.spaces import clear_observation, entries_problem, observation_zeros
from wiserl.core.spec import EnvSpec
from wiserl.core.tree import Array
from wiserl.env.agents import agents_of
from wiserl.env.contract import (
    NUMBERS,
    check_dicts,
    close_env,
    of_agent,
    read_flag,
    read_info,
    read_reward,
    reset_parts,
    step_parts,
)
from wiserl.env.make import EnvLike, env_id, is_parallel
from wiserl.env.masks import MaskReader
from wiserl.env.row_buffers import RowBuffers
from wiserl.util.errors import EnvError, InputError
from wiserl.util.seeding import episode_seed


def read_spec(env: Any, name: EnvLike) -> EnvSpec:
    """The spec of a made env.

    Raises:
        InputError: a space is not supported, or a parallel env has no agents, one twice, or some of different spaces.

    Masks in an env's info are not known before it is reset: `env.masks.with_masks` does that.
    """
    if not is_parallel(env):
        frames, padding = find_frame_stack(env)
        seen, masks, entry = take_mask(env.observation_space, env.action_space)
        spec = EnvSpec(env_id(name), seen, env.action_space, ("agent_0",), frames, padding, masks, entry)
    else:
        agents = agents_of(env, name)
        for kind in ("observation_space", "action_space"):
            groups: dict[str, list[str]] = {}
            for agent in agents:
                groups.setdefault(str(getattr(env, kind)(agent)), []).append(str(agent))
            if len(groups) > 1:
                listed = "; ".join(f"{', '.join(members)}: {space}" for space, members in groups.items())
                raise InputError(
                    f"env '{env_id(name)}': its agents have different {kind}s ({listed}). Groups of agents are not "
                    "supported yet: pad the spaces to one (supersuit's pad_observations_v0, pad_action_space_v0)"
                )
        action = env.action_space(agents[0])
        seen, masks, entry = take_mask(env.observation_space(agents[0]), action)
        spec = EnvSpec(env_id(name), seen, action, agents, masks=masks, only_entry=entry)
    observation_zeros(spec.observation_space, (0,))
    if problem := entries_problem(spec.observation_space):
        raise InputError(
            f"env '{env_id(name)}': its observation space cannot be used: {problem}; a wrapper can change it"
        )
    ActionCodec(spec.action_space)
    return spec


def find_frame_stack(env: Any) -> tuple[int, str]:
    """How many frames an observation of a gymnasium env stacks, and what is below an episode's first frame.

    Returns:
        `FrameStackObservation`'s stack_size and padding_type, if it is in the chain of wrappers, stacks a Box and pads
        by "reset" or "zero", and if the wrappers around it leave the observation space as it is and do not touch
        observations themselves. Otherwise, and for a single frame: 0 and "reset".
    """
    space, none = env.observation_space, (0, "reset")
    while isinstance(env, gym.Wrapper):
        if isinstance(env, FrameStackObservation):
            known = isinstance(space, spaces.Box) and space == env.observation_space
            known &= env.stack_size > 1 and env.padding_type in ("reset", "zero")
            return (env.stack_size, env.padding_type) if known else none
        if isinstance(env, (gym.ObservationWrapper, MaxAndSkipObservation)):
            return none
        env = env.env
    return none


class EnvRows:
    """Adapts one env to rows: `begin` and `step` write at one index of `RowBuffers`; episodes restart by themselves.

    Attributes:
        env: the wrapped env.
        spec: its spec.
        masks: reads its action masks.
    """

    def __init__(
        self, env: Any, spec: EnvSpec, buffers: RowBuffers | None = None, index: int = 0, copy: int = 0
    ) -> None:
        """Adapt `env`, whose spec `read_spec` gives; `buffers` of one env are made when none are given.

        `copy` numbers it in messages.
        """
        self.env = env
        self.spec = spec
        self.buffers = RowBuffers.zeros(spec, 1) if buffers is None else buffers
        self._index = index
        self._parallel = is_parallel(env)
        self.masks = MaskReader(spec, self.buffers.mask[index], self.buffers.final_mask[index])
        self._row = {agent: row for row, agent in enumerate(self.spec.agents)}
        self._reader = ObservationReader(spec.observation_space)
        self._who = f"env '{spec.id}', copy {copy}"
        self._reset, self._stepped = f"reset() of {self._who},", f"step() of {self._who},"
        self._whose_reset, self._whose = (
            {agent: f"{call} agent {agent}," for agent in self._row} for call in (self._reset, self._stepped)
        )

    def begin(self, episode: int) -> None:
        """Start an episode, seeded by its number.

        Raises:
            EnvError: what the env returned is not what it promised.
        """
        self._begin(episode)

    def _begin_next(self) -> None:
        self._begin(int(self.buffers.episode[self._index]) + 1)

    def _begin(self, episode: int) -> None:
        self.buffers.episode[self._index] = episode
        obs, info = reset_parts(self.env.reset(seed=episode_seed(episode)), self._reset)
        if not self._parallel:
            info = read_info(info, self._reset)
            self.masks.begin((info,))
            if self.masks.given:
                obs = self.masks.take(obs, info, 0)
            self._reader.write(self.buffers.obs, (self._index, 0), obs, self._reset)
            self.buffers.alive[self._index] = True
            return
        check_dicts((obs, info), ("observations", "infos"), self._reset)
        self.masks.begin(info.values())
        if not self.env.agents:
            raise EnvError(
                f"{self._who} has no agents after reset; expected at least one of {', '.join(self.spec.agents)}"
            )
        self._write_living(obs, info, self.env.agents, self._whose_reset)

    def step(self, actions: Array) -> Mapping[str, Any]:
        """Step the env once and restart it if its episode is over.

        Args:
            actions: `[A, ...]` in the env's format (`ActionCodec.to_env`); rows of agents that are gone are ignored.

        Returns:
            the env's info (of the last step, not of a reset); for a parallel env {agent: info} of those that have one.

        Raises:
            EnvError: what the env returned is not what it promised.
        """
        if self.masks.given:
            self.masks.count()
        return self._step_parallel(actions) if self._parallel else self._step_single(actions[0])

    def _step_single(self, action: Any) -> Mapping[str, Any]:
        buffers, e = self.buffers, self._index
        who = self._stepped
        obs, reward, terminated, truncated, info = step_parts(self.env.step(action), who)
        if type(terminated) is not bool or type(truncated) is not bool:
            terminated, truncated = read_flag("terminated", terminated, who), read_flag("truncated", truncated, who)
        if type(info) is not dict:
            info = read_info(info, who)
        buffers.reward[e, 0] = reward if type(reward) in NUMBERS else read_reward(reward, who)
        buffers.terminated[e, 0] = terminated
        buffers.truncated[e, 0] = truncated and not terminated
        masks = self.masks
        if masks.given:
            obs = masks.take_final(obs, info, 0, terminated) if terminated or truncated else masks.take(obs, info, 0)
        elif info:
            masks.refuse_late((info,))
        if terminated or truncated:
            buffers.ended[e] = buffers.env_ended[e] = True
            self._reader.write(buffers.final_obs, (e, 0), obs, who)
            self._begin_next()
        else:
            buffers.ended[e] = buffers.env_ended[e] = False
            self._reader.write(buffers.obs, (e, 0), obs, who)
        seen: Mapping[str, Any] = info
        return seen

    def _agents(self) -> Any:
        """Those that act next, as the env says."""
        agents = self.env.agents
        if type(agents) is not list and not isinstance(agents, Collection):
            raise EnvError(f"env '{self.spec.id}' has agents = {agents!r}; expected a list, [] where all have ended")
        return agents

    def _step_parallel(self, actions: Array) -> Mapping[str, Any]:
        buffers, e = self.buffers, self._index
        acting = {agent: actions[self._row[agent]] for agent in self.env.agents}
        who = self._stepped
        parts = step_parts(self.env.step(acting), who)
        check_dicts(parts, ("observations", "rewards", "terminations", "truncations", "infos"), who)
        obs, rewards, terminations, truncations, infos = parts
        agents = self._agents()
        for array in (buffers.reward, buffers.terminated, buffers.truncated, buffers.ended, buffers.env_ended):
            array[e] = 0
        # Some envs keep an agent that has ended in env.agents, and go on to report its end: it counts once.
        over, ended = set(), []
        flags = (("terminated", terminations), ("truncated", truncations))
        for agent, row in self._row.items():
            if not buffers.alive[e, row]:
                whose = self._whose[agent]
                if any(read_flag(name, part.get(agent, False), whose) for name, part in flags):
                    over.add(agent)
                continue
            whose = self._whose[agent]
            terminated = read_flag("terminated", of_agent(terminations, "termination", agent, who), whose)
            truncated = read_flag("truncated", of_agent(truncations, "truncation", agent, who), whose)
            buffers.reward[e, row] = read_reward(of_agent(rewards, "reward", agent, who), whose)
            buffers.terminated[e, row] = terminated
            buffers.truncated[e, row] = truncated and not terminated
            if terminated or truncated:
                over.add(agent)
                ended.append(agent)
            elif agent not in agents:
                raise EnvError(
                    f"env '{self.spec.id}': agent {agent} left env.agents with neither termination nor truncation; "
                    "return True for it in one of the two in the step in which it leaves"
                )
        living = [agent for agent in agents if agent not in over]
        if not self.masks.given:
            self.masks.refuse_late(infos.values())
        self._write_living(obs, infos, living, self._whose)
        if ended or not living:
            self._end(obs, infos, ended, over=not living)
        seen = ((agent, read_info(info, self._whose.get(agent, who))) for agent, info in infos.items())
        return {agent: info for agent, info in seen if info}

    def _write_living(
        self, obs: Mapping[str, Any], infos: Mapping[str, Any], living: list[str], whose: Mapping[str, str]
    ) -> None:
        """Write observations, masks and `alive` of all rows: those in `living` from `obs`, zeros for the others."""
        buffers, e = self.buffers, self._index
        for agent in living:
            if agent not in self._row:
                raise EnvError(
                    f"{self._who} has agent {agent} in env.agents, which its possible_agents lack: {', '.join(map(str, self._row))}. "
                    "List every agent that can ever act there"
                )
        for agent, row in self._row.items():
            is_living = agent in living
            if is_living:
                if agent not in obs:
                    raise EnvError(
                        f"env '{self.spec.id}': agent {agent} is in env.agents but has no observation; it has those of "
                        f"{', '.join(map(str, obs))}. Return one for each agent that acts next"
                    )
                value = self.masks.take(obs[agent], infos.get(agent), row) if self.masks.given else obs[agent]
                self._reader.write(buffers.obs, (e, row), value, whose[agent])
            elif buffers.alive[e, row]:
                clear_observation(buffers.obs, (e, row))
            buffers.alive[e, row] = is_living

    def _end(self, obs: Mapping[str, Any], infos: Mapping[str, Any], ended: list[str], over: bool) -> None:
        """Keep the final observations of the agents whose episode ended; restart the env when nobody is left."""
        buffers, e, masks = self.buffers, self._index, self.masks
        for agent, row in self._row.items():
            if masks.given:
                masks.clear_final(row)
            if agent in obs:
                value = masks.bare(obs[agent], agent)
                if masks.given and agent in ended:
                    value = masks.take_final(obs[agent], infos.get(agent), row, bool(buffers.terminated[e, row]))
                self._reader.write(buffers.final_obs, (e, row), value, self._whose[agent])
            elif agent in ended and not buffers.terminated[e, row]:
                raise EnvError(
                    f"env '{self.spec.id}': agent {agent} was truncated without a final observation; "
                    "return its observation in the step in which it ends (it is needed for the bootstrap)"
                )
            else:
                clear_observation(buffers.final_obs, (e, row))
        buffers.ended[e] = bool(ended)
        buffers.env_ended[e] = over
        if over:
            self._begin_next()

    def close(self) -> None:
        """Close the env."""
        close_env(self.env, f"env '{self.spec.id}'")
