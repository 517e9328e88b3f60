"""The pipeline file `.pbft-ci.yml`, read into typed values."""
