"""The NumPy twins, by subject. The public place for all of them is `fnnet.proof.reference`."""
