"""What changes a deposited visit: replace, merge, rename, remove, refresh. One transaction each."""
