"""The architecture and its checkpoints: `Transformer`, `causal_attend`, `WeightsError`. Single-device."""
