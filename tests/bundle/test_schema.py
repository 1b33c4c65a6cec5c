"""The generated schema.sql of each service shows what its migrations make."""

import pytest

from bundle.processes import ROOT
from bundle.schema import schema_of
from services.chassis.migrate import services_with_tables
from tests.fix_postgres import Database


@pytest.mark.parametrize("service", services_with_tables())
def test_the_schema_on_one_page_is_the_schema_that_migrations_make(database: Database, service: str) -> None:
    written = (ROOT / "services" / service / "schema.sql").read_text()
    assert written == schema_of(database.admin_url, service), "migrations changed: run `make schema`"
