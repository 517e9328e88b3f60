"""The commands of the command line, a module for each group; `client.command_line` lists them."""
