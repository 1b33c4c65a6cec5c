"""Parts that queries are put together from.

Put together rather than written as "null or equal", so that the planner sees which index serves.
"""

from typing import LiteralString
from uuid import UUID

from psycopg.sql import SQL, Composed

NOTHING = SQL("")
# Weaker than "for update": rows that refer to this one may still be stored by others.
LOCK = SQL("for no key update")
# Ids before and after every other: where lists begin.
FIRST_ID = UUID(int=0)
LAST_ID = UUID(int=2**128 - 1)


def where_given(value: UUID | None, condition: LiteralString) -> SQL:
    """Returns a further condition, or nothing where no value is asked for."""
    return NOTHING if value is None else SQL("and " + condition)


def of_own_client(table: str, own: UUID | None) -> SQL | Composed:
    """Returns the condition that a row belongs to a client of the officer %(own)s; nothing for who sees all."""
    if own is None:
        return NOTHING
    return SQL(
        "and exists ("
        "select from link.clients as client "
        "where client.client_id = {}.client_id and client.officer_id = %(own)s)"
    ).format(SQL(table))
