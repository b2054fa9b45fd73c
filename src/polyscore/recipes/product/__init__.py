"""Products of experts, measured: exactness on closed forms, and digits over coloured grounds that no expert has seen together."""
