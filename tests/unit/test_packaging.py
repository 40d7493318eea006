from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PIN = r'[A-Za-z0-9._-]+==[0-9][0-9a-z.]*( ; python_version >= "3.11")?'
TESTED_EXTRAS = ("marl", "box2d", "video", "dev", "bench")


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split(" ;")[0].split("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pins.items()}


def requirements(extra: str) -> list[Requirement]:
    found = [Requirement(text) for text in metadata.requires("wiserl") or []]
    return [item for item in found if item.marker is None or item.marker.evaluate({"extra": extra})]


@pytest.mark.parametrize("extra", TESTED_EXTRAS)
def test_every_requirement_of_a_tested_extra_is_pinned_within_its_range(extra: str) -> None:
    pins = constraints()
    for requirement in requirements(extra):
        version = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} excludes the pin {version}"


def test_the_readme_has_every_extra_and_no_other() -> None:
    assigned = (node for node in ast.parse((ROOT / "setup.py").read_text()).body if isinstance(node, ast.Assign))
    extras = next(ast.literal_eval(node.value) for node in assigned if ast.unparse(node.targets[0]) == "EXTRAS")
    table = (ROOT / "README.md").read_text().partition("| extra |")[2].partition("\n\n")[0]
    named = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|", 2)[1:2][0])}
    assert named == {*extras, "all"}


def test_constraints_name_versions_only() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(PIN, line)] == []
    assert constraints()["torch"] == "2.13.0"


def test_pygame_and_pygame_ce_are_never_both_required() -> None:
    # Both own the module `pygame`, and break each other when installed together.
    names = {
        canonicalize_name(item.name)
        for extra in metadata.metadata("wiserl").get_all("Provides-Extra") or []
        for item in requirements(extra)
    }
    assert "pygame-ce" in names
    assert "pygame" not in names


def test_a_second_install_has_nothing_to_do(tmp_path: Path) -> None:
    for name in ("Makefile", "setup.py", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".installed").touch()

    def plan() -> str:
        return subprocess.run(
            ["make", "--dry-run", "install"], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout

    assert "Nothing to be done" in plan()
    later = (tmp_path / ".venv" / ".installed").stat().st_mtime + 1
    os.utime(tmp_path / "constraints.txt", (later, later))
    assert "pip" in plan()


@pytest.mark.parametrize(
    "module",
    ["experiment.console", "util.seeding", "run_folder.metrics", "run_folder.plotting", "policy.video", "util.errors"],
)
def test_utilities_load_without_torch_and_ray(module: str) -> None:
    code = f"import sys, wiserl.{module}; print([name for name in ('torch', 'ray') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_gpu_tests_are_not_collected_without_a_gpu(tmp_path: Path) -> None:
    (tmp_path / "test_two.py").write_text(
        "import pytest\n\n@pytest.mark.gpu\ndef test_gpu():\n    assert False\n\ndef test_cpu():\n    pass\n"
    )
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "-p", "tests.conftest", str(tmp_path)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "1 passed, 1 deselected" in result.stdout


def test_tests_run_on_one_thread_each() -> None:
    code = "import torch; print(torch.get_num_threads())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "1"


def compose(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "docker" / name).read_text())
    return content


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_compose_builds_from_files_that_exist(name: str) -> None:
    services = compose(name)["services"]
    assert set(services) == {"head", "worker", "train"}
    for service in services.values():
        context = (ROOT / "docker" / service["build"]["context"]).resolve()
        lines = (context / service["build"]["dockerfile"]).read_text().splitlines()
        copied = [path for line in lines if line.startswith("COPY ") for path in line.split()[1:-1]]
        assert copied
        assert [path for path in copied if not (context / path).exists()] == []


def test_every_node_of_the_compose_cluster_joins_the_head_with_its_token() -> None:
    services = compose("compose.yaml")["services"]
    head = services["head"]
    port = re.search(r"--head --port=(\d+)", head["command"][-1])
    assert port is not None
    for name in ("worker", "train"):
        assert services[name]["environment"]["RAY_ADDRESS"] == f"{head['hostname']}:{port[1]}"
        assert services[name]["depends_on"]["head"] == {"condition": "service_healthy"}
    for service in services.values():
        folder = Path(service["environment"]["RAY_AUTH_TOKEN_PATH"]).parent
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
        assert f"auth:{folder}" in service["volumes"]
