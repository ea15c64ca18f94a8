# The loop's files.
