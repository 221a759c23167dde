"""Many runs from one plan, a row each, and what they amount to."""
