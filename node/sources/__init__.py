"""From a repository on a git server to the files of one commit, which nobody trusts."""
