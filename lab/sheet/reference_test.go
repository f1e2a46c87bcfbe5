package sheet

import (
	"strings"
	"testing"
)

func TestCommittedReferenceIsThatOfTheTables(t *testing.T) {
	golden(t, "../../docs/sheet-reference.md", string(Reference()))
}

func TestReferenceHasEveryNumberThatExpressionsMayUse(t *testing.T) {
	own := map[string]bool{}
	for _, k := range kinds {
		for _, x := range k.Keys {
			own[x.Name] = true
		}
	}
	used := map[string]bool{}
	sheets := committed(t)
	for i, src := range moreSheets {
		sheets[strings.Repeat("more", i+1)] = []byte(src)
	}
	for file, text := range sheets {
		for _, p := range profileNames {
			e, err := Parse(file, text, Options{Profile: p})
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range e.Arms {
				for n := range a.Numbers {
					short := n[strings.LastIndex(n, ".")+1:]
					used[short] = true
					if numberNames[short] == "" && !own[short] {
						t.Errorf("%s: the number %s is not in the reference", file, n)
					}
				}
			}
		}
	}
	for n := range numberNames {
		if !used[n] {
			t.Errorf("the reference tells of %s, which no sheet has", n)
		}
	}
}

func TestKeysOfOneNameHaveOneFormInAllKindsOfARole(t *testing.T) {
	forms := map[string]Form{}
	for _, k := range kinds {
		for _, x := range k.Keys {
			id := string(k.Role) + " " + x.Name
			if f, ok := forms[id]; ok && f != x.Form {
				t.Errorf("%s is %s in one kind and %s in another: a layer that does not say the kind could not be checked", id, f, x.Form)
			}
			forms[id] = x.Form
		}
	}
	for _, v := range verbs {
		for _, x := range v.Keys {
			if f, ok := forms["fault "+x.Name]; ok && f != x.Form {
				t.Errorf("the faults' key %s is %s and %s", x.Name, f, x.Form)
			}
			forms["fault "+x.Name] = x.Form
		}
	}
}

func TestEveryFaultThatAKindKnowsIsExplained(t *testing.T) {
	known := map[string]bool{}
	for _, f := range programFaults {
		known[f] = true
	}
	for _, k := range kinds {
		for _, f := range k.Faults {
			known[f] = true
		}
	}
	for f := range known {
		if verbOf(f) == nil {
			t.Errorf("no verb %s", f)
		}
	}
	for _, v := range verbs {
		if !known[v.Name] {
			t.Errorf("nothing knows the verb %s", v.Name)
		}
	}
}

func TestExamplesOfTheReferenceDecode(t *testing.T) {
	for _, text := range []string{ShortExample, GeneralExample} {
		for _, p := range profileNames {
			e, err := Parse("example.yaml", []byte(text), Options{Profile: p})
			if err != nil {
				t.Fatal(err)
			}
			if len(e.Warnings) > 0 {
				t.Error(e.Warnings)
			}
		}
	}
}
