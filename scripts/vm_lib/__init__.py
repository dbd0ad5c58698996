"""Virtual machines for tests, for scripts/vm, scripts/kernels and scripts/boot-test."""
