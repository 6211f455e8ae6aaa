"""Questions answered by training: each study is its own folder, outside the package."""
