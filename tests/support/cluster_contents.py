"""Reading views from the masters of a cluster."""

from projections.keys import View
from tests.support import view_model
from tests.support.valkey_cluster import Node, ValkeyCluster


def held(cluster: ValkeyCluster, view: View) -> view_model.Contents:
    """Return all keys of a view with their content, from all masters."""
    parts = [view_model.actual(node.client, view) for node in cluster.masters().values()]
    return {key: content for part in parts for key, content in part.items()}


def partitions_of(cluster: ValkeyCluster, view: View, node: Node) -> set[int]:
    """Return the partitions on a master."""
    return {partition for partition in range(view.partitions) if cluster.master_of(view.checkpoint(partition)) is node}


def positions(node: Node, view: View, partitions: set[int]) -> list[int]:
    """Return the positions of these partitions on one server."""
    return [int(node.ask("HGET", view.checkpoint(partition), "position")) for partition in sorted(partitions)]
