"""The commands of ``pd-jax``, a module each: it reads its settings, calls the library and prints what came out.

`pd_jax.commands.runner` prepares the process before it imports a command's module, so that a module may import JAX at
its top, and so that no command imports the others.
"""
