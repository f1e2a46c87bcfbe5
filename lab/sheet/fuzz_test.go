package sheet

import (
	"reflect"
	"testing"
)

// FuzzParse: no text makes the decoder panic, and what it accepts can be
// resolved, and resolved again, into the same experiment.
func FuzzParse(f *testing.F) {
	for _, text := range committed(f) {
		f.Add(text)
	}
	for _, file := range brokenSheets(f) {
		f.Add(file.Data)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, profile := range profileNames {
			e, err := Parse("fuzz", text, Options{Profile: profile})
			if err != nil {
				if e != nil {
					t.Fatal("an experiment and an error")
				}
				continue
			}
			resolved, err := Resolved(e)
			if err != nil {
				t.Fatal(err)
			}
			again, err := Parse("resolved", resolved, Options{})
			if err != nil {
				t.Fatalf("accepted, but resolved it is refused: %v\n%s\n---\n%s", err, text, resolved)
			}
			if a, b := alike(e), alike(again); !reflect.DeepEqual(a, b) {
				t.Fatalf("resolved it is another experiment: %s\n%s\n---\n%s", difference(a, b), text, resolved)
			}
		}
	})
}
