"""Files that strangers may have made: read without running anything, within bounds of memory."""
