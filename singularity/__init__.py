"""The container's recipe, and its check."""
