"""What everything stands on: units, targets, neighbour lists, batches, errors and provenance."""
