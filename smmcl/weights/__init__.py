"""Weight files: reading them, and published names as ours."""
