"""The five systems that this project grew from: a test for each thing that one of them did."""
