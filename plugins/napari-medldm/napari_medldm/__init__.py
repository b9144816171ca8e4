"""medldm in napari: open a scan, restore it, judge it, save it. Uses medldm's public API and nothing else of it."""
