package socket

import (
	"slices"
	"strings"
	"testing"
)

func TestOptionTableIsInOrderAndComplete(t *testing.T) {
	if !slices.IsSortedFunc(sockOptions, func(a, b option) int { return strings.Compare(a.name, b.name) }) {
		t.Error("sockOptions are not in alphabetical order, which the search relies on")
	}
	for _, o := range sockOptions {
		if o.about == "" {
			t.Errorf("%s has no explanation", o.name)
		}
	}
	for _, name := range always {
		if _, ok := OptionNamed(name); !ok {
			t.Errorf("%s is always read, and unknown", name)
		}
	}
}
