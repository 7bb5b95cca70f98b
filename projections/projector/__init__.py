"""The projector: folds events of the log and applies them to the partitions of a view."""
