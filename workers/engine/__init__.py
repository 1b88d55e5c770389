"""Text generation as a server does it: continuous batching over a paged latent cache.

``engine`` runs requests; ``scheduler`` says what goes into each forward pass; ``pages`` and ``prefix_cache`` own the
memory; ``sampling`` draws tokens. ``modes`` says which requests the farm's tests send, and ``samples`` what of the
answers is compared. Nothing here reads a clock or asks the operating system for randomness, so that all ranks of a
tensor-parallel group decide alike without a word between them.
"""
