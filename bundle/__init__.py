"""The `opennotice` command: everything on one machine, and what an operator does from the host."""

import os

# Before anything here imports gRPC, which reads it once: the command starts servers while gRPC's threads run, and
# gRPC's own care for forks sometimes leaves such a child hanging before it has become the server.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
