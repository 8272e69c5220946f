"""torch: optimizers whose parameters move in a mapped space. Needs the extra ``fastmap[torch]``."""

from fastmap.torch._optim import SGD, Adam, AdamW, Lion, MappedOptimizer, MirrorDescent, convert_lr

__all__ = ["SGD", "Adam", "AdamW", "Lion", "MappedOptimizer", "MirrorDescent", "convert_lr"]
