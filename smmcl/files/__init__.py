"""Reading files that strangers may have made, and writing files whole or not at all."""
