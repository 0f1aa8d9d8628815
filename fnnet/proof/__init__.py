"""Proof: every op again in NumPy (`reference`), its rule proved by algebra (`symbolic`).

Nothing here stands on jax or on the rest of fnnet, so that an error made there cannot be repeated
here. `fnnet.proof.reference` needs NumPy; `fnnet.proof.symbolic` needs SymPy too.
"""
