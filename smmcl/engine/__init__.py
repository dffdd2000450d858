"""Training and evaluation: the trainer, its steps, hooks, processes and checkpoints."""
