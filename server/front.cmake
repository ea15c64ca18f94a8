# The front door's files.
