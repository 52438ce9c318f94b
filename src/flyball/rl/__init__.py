"""The mathematics of learning from graded attempts: pure functions over arrays, no model, no clock, no I/O."""
