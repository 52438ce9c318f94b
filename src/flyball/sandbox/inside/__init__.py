"""What runs on the other side: programs of the standard library alone, which import nothing of this package."""
