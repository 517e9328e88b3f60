"""Many runs: seeds, exhaustive explorations, coverage, and making a failing run small."""
