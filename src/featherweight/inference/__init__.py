"""Read pictures with an exported file; nothing here needs PyTorch."""
