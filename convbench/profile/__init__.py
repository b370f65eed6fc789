"""A user's own model, layer by layer: what each convolution costs in it, what bounds it, and what to do about it.

watch      runs a step of the model under torch's dispatcher and stamps every operator
look       what each convolution is given: receptive field, denormal numbers, order
layers     joins that with measurements of the same layers alone: one row a layer and pass
facts      what tensors and order tell without a clock
cold       the same with weights out of the caches
extras     separable pairs, rounder shapes, lower precision, a bare call
variants   changes to the whole step: kernels, layout, type, threads
profiler   the same step by torch.profiler
counts     multiply-accumulates against fvcore's and torch's
session    all of it in order, by its options
advice     lines with evidence, from plain data
model      the plain data
export     CSV, JSON, Markdown, Chrome trace; page is the HTML, tensorboard the scalars
compare    profiles against each other; compared is their rows and tables
"""
