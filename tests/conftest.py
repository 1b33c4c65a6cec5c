"""Lists the fixtures' plugins, nothing else."""

pytest_plugins = [
    "tests.fix_postgres",
    "tests.fix_nats",
    "tests.fix_rpc",
    "tests.fix_bundle",
    "tests.fix_browser",
    "tests.fix_require",
]
