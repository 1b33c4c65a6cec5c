"""Dead letters: events that could not be taken in, kept with their bytes and the error until somebody looks."""

from psycopg import sql

from services.chassis import log
from services.chassis.postgres import Database

_LOG = log.get(__name__)


class DeadLetters:
    """The table `dead_letters` of one schema."""

    def __init__(self, database: Database, schema: str) -> None:
        self._database = database
        self._schema = schema
        self._insert = sql.SQL(
            "insert into {} (consumer, subject, message_type, payload, error, attempts) values (%s, %s, %s, %s, %s, %s)"
        ).format(sql.Identifier(schema, "dead_letters"))

    async def keep(
        self, *, consumer: str, subject: str, message_type: str, payload: bytes, error: BaseException, attempts: int
    ) -> None:
        """Keeps one event that will not be tried again by itself."""
        told = f"{type(error).__name__}: {error}".replace("\0", "")[:2000]
        async with self._database.transaction() as conn:
            await conn.execute(self._insert, (consumer, subject, message_type, payload, told, attempts))
        _LOG.error("event became a dead letter", consumer=consumer, subject=subject, error=type(error).__name__)

    async def count(self) -> int:
        """Returns how many wait."""
        query = sql.SQL("select count(*) from {}").format(sql.Identifier(self._schema, "dead_letters"))
        async with self._database.transaction() as conn:
            row = await (await conn.execute(query)).fetchone()
        return int(row[0]) if row else 0
