"""Test reports in JUnit XML, read without trust, in a process of their own."""
