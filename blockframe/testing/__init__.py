"""What tests search with: the largest value and derivatives of a block, the largest curvature."""
