"""Training: recipes, the loop, checkpoints, the report of a run."""
