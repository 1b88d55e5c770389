"""DeepSeek-V3 for inference, in plain PyTorch, with the GEMM under test inside.

``config`` says what the model is, ``weights`` where its tensors come from, ``model`` what a forward pass computes.
Ranks of a tensor-parallel group meet only in ``collectives``; every operation is told to a ``recorder``.
"""
