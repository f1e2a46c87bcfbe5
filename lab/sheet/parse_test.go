package sheet

import (
	"os"
	"testing"
)

func TestChurnDecodesInBothProfilesAndResolvesToItself(t *testing.T) {
	text, err := os.ReadFile("../sheets/churn.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, profile := range profileNames {
		e, err := Parse("churn.yaml", text, Options{Profile: profile})
		if err != nil {
			t.Fatal(err)
		}
		r, _ := Resolved(e)
		again, err := Parse("resolved", r, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if r2, _ := Resolved(again); string(r2) != string(r) {
			t.Fatalf("resolving twice differs:\n%s\n%s", r, r2)
		}
	}
}
