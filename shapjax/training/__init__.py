"""Training: the joint loss, a step, the loop over steps, the optimizer, layouts on devices, checkpoints."""
