"""Stack crossings and call paths, as tables and flame graphs."""
