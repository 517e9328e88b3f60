"""One replica as a process: links, disk, HTTP, and the builds that it owes."""
