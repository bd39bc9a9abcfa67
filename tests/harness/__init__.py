"""What the tests share that drive the real service: the process itself, its REST side and the real clients."""
