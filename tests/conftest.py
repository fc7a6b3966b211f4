"""What all tests share: pytest puts this folder on the path, so that stories find `world` and `ledgers` too."""
