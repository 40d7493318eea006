"""What a learner must know of an env."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from wiserl.core.spaces import Space, space_from_json, space_to_json
from wiserl.core.tree import Array
from wiserl.util.errors import InputError


class RewardOfGoals(Protocol):
    """What steps would have earned with other goals."""

    def check(self) -> None:
        """Raise InputError if the env cannot say it."""
        ...

    def __call__(self, achieved: Array, desired: Array) -> tuple[Array, Array | None]:
        """Rewards float32 `[B]` of steps that led to `achieved [B, ...]` if `desired [B, ...]` is the goal, and whether they
        end the episode, bool `[B]`; None where that does not depend on the goal.
        """
        ...


@dataclass(frozen=True)
class EnvSpec:
    """What the learner must know of an env: no env object, so that it can be sent, saved and opened anywhere.

    Attributes:
        id: readable name of the env.
        observation_space: of one agent.
        action_space: of one agent.
        agents: names in the order of the agent axis; `("agent_0",)` for a gymnasium env.
        frame_stack: k, where an observation `[k, ...]` is the last k frames, oldest first; 0 where it is not.
        frame_padding: what is below the first frame of an episode: "reset" that frame again, "zero" zeros.
        masks: how the env says which actions are valid: by its "info", by an entry of its "observation" (which
            `observation_space` is without), or "" not at all.
        only_entry: the one entry of a Dict observation besides the mask, whose space is `observation_space`; "" where there are
            more.
        goal_reward: rewards of other goals (`env.goal_reward.GoalReward`), where hindsight is to ask for them; neither saved
            nor compared.
    """

    id: str
    observation_space: Space
    action_space: Space
    agents: tuple[str, ...] = ("agent_0",)
    frame_stack: int = 0
    frame_padding: str = "reset"
    masks: str = ""
    only_entry: str = ""
    goal_reward: RewardOfGoals | None = field(default=None, compare=False, repr=False)

    @property
    def num_agents(self) -> int:
        """Length of the agent axis."""
        return len(self.agents)

    def to_json(self) -> dict[str, Any]:
        """The spec as JSON values; `from_json` reads it back."""
        return {
            "id": self.id,
            "observation_space": space_to_json(self.observation_space),
            "action_space": space_to_json(self.action_space),
            "agents": list(self.agents),
            "frame_stack": self.frame_stack,
            "frame_padding": self.frame_padding,
            "masks": self.masks,
            "only_entry": self.only_entry,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> EnvSpec:
        """Read what `to_json` wrote.

        Raises:
            InputError: an entry is missing, or a space is of unknown type.
        """
        try:
            return cls(
                id=data["id"],
                observation_space=space_from_json(data["observation_space"]),
                action_space=space_from_json(data["action_space"]),
                agents=tuple(data["agents"]),
                frame_stack=data.get("frame_stack", 0),
                frame_padding=data.get("frame_padding", "reset"),
                masks=data.get("masks", ""),
                only_entry=data.get("only_entry", ""),
            )
        except KeyError as error:
            raise InputError(f"description of an env lacks {error}; it has {', '.join(data)}") from error
