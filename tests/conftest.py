"""Lists the fixtures' plugins, nothing else."""

import os

# Before any of them imports gRPC, which reads it once: tests start servers while gRPC's threads run here, and its own
# care for forks sometimes leaves such a child hanging before it has become the server.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

pytest_plugins = [
    "tests.fix_postgres",
    "tests.fix_nats",
    "tests.fix_rpc",
    "tests.fix_bundle",
    "tests.fix_containers",
    "tests.fix_browser",
    "tests.fix_require",
    "tests.fix_workers",
]
