"""A net made of ops: initialisers, layers, the manual backward pass, and the matmul ladder."""
