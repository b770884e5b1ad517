"""What follows from frames: estimates, comparisons, rates."""
