"""Read pictures of digits with an exported file. No module here imports PyTorch."""
