"""Training as a benchmark: models, dense and separable, on chosen kernels, step by step side by side.

settings   what is trained, and how
data       images that ship in packages; folders: the user's own
augment    flip, shift, crop, rotate, noise, the same for image and mask
losses     cross-entropy, Dice, their sum
metrics    accuracy, IoU and Dice from a confusion matrix
trainer    one variant: a step in timed phases, evaluation, its state
session    all variants in lockstep, checkpoints, resuming
parallel   several processes under torchrun
result     what comes out, as plain data
"""
