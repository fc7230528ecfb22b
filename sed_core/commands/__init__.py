"""The commands of `sed_core.cli` that take more than a few lines."""
