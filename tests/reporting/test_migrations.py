def test_up(database):
    assert database
