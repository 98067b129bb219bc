"""The model that exists, trained on many ranks. Parallelism is applied to it from outside.

`python -m mythos.train.parallel` under `torchrun` trains a family's tier; `trace` tells what one rank of any
mesh holds, sends and computes, without weights. docs/scale.md says what is proven.
"""
