"""The container's recipe, and what checks it."""
