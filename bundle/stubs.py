"""Generates the Python stubs beside their .proto files; what `make proto` runs."""

import os
import sys
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent


def generate(root: Path = ROOT) -> int:
    """Writes every stub anew and returns protoc's exit code."""
    proto = root / "proto"
    files = sorted(str(path.relative_to(proto)) for path in proto.rglob("*.proto"))
    well_known = resources.files("grpc_tools") / "_proto"
    arguments = ["protoc", f"-I{proto}", f"-I{well_known}", f"--python_out={proto}", f"--grpc_python_out={proto}"]
    # The typed stubs are for mypy only, so their plugin comes with the development lock and not with the product.
    plugins = Path(sys.executable).parent
    if (plugins / "protoc-gen-mypy").exists():
        os.environ["PATH"] = f"{plugins}{os.pathsep}{os.environ.get('PATH', '')}"
        arguments += [f"--mypy_out=quiet:{proto}", f"--mypy_grpc_out=quiet:{proto}"]
    return int(protoc.main([*arguments, *files]))


if __name__ == "__main__":
    sys.exit(generate())
