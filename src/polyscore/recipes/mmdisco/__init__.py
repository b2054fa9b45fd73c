"""MMDisCo's experiments: the toy of Table 1, talking digits, and three modalities joined by one discriminator."""
