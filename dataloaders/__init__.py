"""From prepared sets to batches: record formats, readers, scene graphs, one file a loader."""
