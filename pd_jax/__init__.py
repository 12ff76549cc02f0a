"""Policy distillation (Rusu et al., 2016) for accelerators, in JAX and Flax."""

__version__ = "0.1.0"
