"""What a bug report needs of a node or a gateway, collected without its secrets."""
