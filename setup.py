"""Packaging of wiserl: name, version ranges, extras. Tool settings are in pyproject.toml, pins in constraints.txt."""

from pathlib import Path

from setuptools import find_packages, setup

EXTRAS = {
    # mpe2 brings pygame-ce, which owns the module `pygame`: gymnasium's own `pygame` must not be installed beside it.
    "marl": ["pettingzoo>=1.25", "mpe2>=1.1", "pygame-ce>=2.5"],
    "atari": ["ale-py>=0.11", "opencv-python-headless>=4.9"],
    "mujoco": ["mujoco>=3.2", "imageio>=2.34"],
    "minari": ["minari[hdf5]>=0.5"],
    "video": ["imageio>=2.34", "imageio-ffmpeg>=0.5"],
    "box2d": ["box2d>=2.3.10", "pygame-ce>=2.5"],
    "bench": ["stable-baselines3>=2.7", "sb3-contrib>=2.7", "ray[rllib]>=2.40", "psutil>=5.9"],
    "dev": [
        "pytest>=8",
        "pytest-timeout>=2.3",
        "pytest-xdist>=3.7",
        "hypothesis>=6.100",
        "mypy>=1.11",
        "ruff>=0.6",
        "import-linter>=2.6",
        "types-PyYAML",
        "psutil>=5.9",
        "stable-baselines3>=2.7",  # updates are held against its own
        "scipy>=1.11",
    ],
}
EXTRAS["all"] = sorted({item for name in ("marl", "atari", "mujoco", "box2d", "video") for item in EXTRAS[name]})

setup(
    name="wiserl",
    version="0.1.0",
    description="Distributed reinforcement learning on Ray and PyTorch: one data path for one agent or many",
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["wiserl", "wiserl.*"]),
    package_data={"wiserl": ["py.typed", "presets.yaml"]},
    install_requires=[
        "click>=8.1",  # command line
        "greenlet>=3.0",  # several runners in one process, one stack each, on one thread
        "gymnasium>=1.1",
        "matplotlib>=3.8",
        "msgspec>=0.18",  # config values: conversion, ranges, messages
        "numpy>=1.26",
        "pillow>=10.0",  # GIFs
        "pyyaml>=6.0",
        "ray>=2.40",
        "rich>=13.0",  # console
        "safetensors>=0.4",
        "tensorboardX>=2.6",  # event files, without importing tensorboard
        "torch>=2.4",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["wiserl=wiserl.cli.main:main"]},
)
