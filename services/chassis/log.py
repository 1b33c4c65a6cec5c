"""Logs: one JSON object a line on standard error, with the id of the request.

Never logged: tokens, API keys, sessions, addresses and user agents of clients.
"""

import logging
import sys
from typing import Any

import structlog


def set_up(process: str, level: str) -> None:
    """Makes every logger of this process write JSON lines, those of libraries too."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                lambda _logger, _name, event: {"process": process, **event},
                structlog.processors.JSONRenderer(ensure_ascii=False),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    # These two tell every connection attempt at INFO or above although we tell it ourselves, better.
    for noisy in ("psycopg.pool", "nats"):
        logging.getLogger(noisy).setLevel(logging.ERROR)


def get(name: str) -> Any:
    """Returns the logger of a module."""
    return structlog.get_logger(name)
