"""How often is too often."""

from cli.restarts import PAUSE_S, RESTARTS_MAX, WINDOW_S, Restarts


def test_some_restarts_in_a_minute_are_fine_and_more_are_not() -> None:
    clock = [0.0]
    restarts = Restarts(lambda: clock[0])
    for _ in range(RESTARTS_MAX):
        assert restarts.due()
        assert not restarts.used_up()
        restarts.note()
        assert not restarts.due()
        clock[0] += PAUSE_S
    assert restarts.used_up()
    clock[0] = WINDOW_S
    assert not restarts.used_up()
