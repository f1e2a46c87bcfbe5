// Package kerneltest gives tests the guest kernel.
//
// A test that needs a guest says so here, and not by skipping on its own: where
// the kernel is expected, which is in CI, its absence fails the test.
package kerneltest

import (
	"os"
	"testing"

	"tcplab/lab/guest/kernel"
)

// Need returns the guest kernel. Without one the test is skipped, or in CI
// (CI=true), fails.
func Need(t testing.TB) kernel.Kernel {
	t.Helper()
	k, err := kernel.Find()
	if err == nil {
		return k
	}
	if os.Getenv("CI") == "true" {
		t.Fatal(err)
	}
	t.Skip(err)
	return kernel.Kernel{}
}
