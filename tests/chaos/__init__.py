"""Shows under faults what the product promises: `make chaos`, and a short form in the tests."""
