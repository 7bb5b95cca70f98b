"""What a web process publishes of the state of the service, and when."""

from pathlib import Path

from api.metrics import WebMetrics
from projections.metrics.state_metrics import LOG_POSITION, STATE
from tests.support.in_process import in_process


def position() -> float | None:
    """Return the position of the log that is published."""
    return STATE.get_sample_value("follows_log_position")


async def test_reading_of_the_state_is_published_once(own_settings: dict[str, str], keys: Path) -> None:
    """Published again, an old one would take the place of another process' newer one: the position would go back."""
    async with in_process(own_settings, keys) as service:
        metrics, watch = WebMetrics(service.services), service.services.state
        metrics.start()
        assert watch.state is not None and watch.state.log is not None
        assert position() == watch.state.log.position
        publish, watch.on_reading = watch.on_reading, lambda _: None
        LOG_POSITION.set(-1)
        metrics.publish()
        assert position() == -1
        publish(watch.state)
        assert position() == watch.state.log.position
        await metrics.close()
