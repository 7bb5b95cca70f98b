"""What the masters of a cluster hold, put together."""

from projections.keys import View
from tests.projections import model
from tests.valkey_cluster import Node, ValkeyCluster


def held(cluster: ValkeyCluster, view: View) -> model.Contents:
    """What the masters hold of a view, all together."""
    parts = [model.actual(node.client, view) for node in cluster.masters().values()]
    return {key: content for part in parts for key, content in part.items()}


def lanes_of(cluster: ValkeyCluster, view: View, node: Node) -> set[int]:
    """The lanes that a master holds."""
    return {lane for lane in range(view.lanes) if cluster.master_of(view.checkpoint(lane)) is node}


def positions(node: Node, view: View, lanes: set[int]) -> list[int]:
    """Where these lanes stand on one server."""
    return [int(node.ask("HGET", view.checkpoint(lane), "position")) for lane in sorted(lanes)]
