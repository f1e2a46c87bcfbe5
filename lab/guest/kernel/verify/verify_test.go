package verify

import (
	"strings"
	"testing"
)

func saying(lines ...string) account {
	var a account
	for _, l := range lines {
		a.lines = append(a.lines, []byte(l))
	}
	return a
}

func TestEqualityNeedsTheSameRunForASeedAndAnotherForAnother(t *testing.T) {
	one, two := saying(`{"a":1}`, `{"b":1}`), saying(`{"a":1}`, `{"b":2}`)
	if c := equality(one, one, two); c.Failed != "" || c.Unknown || !strings.Contains(c.Said, "two boots "+one.digest()) {
		t.Errorf("%+v", c)
	}
	if c := equality(one, two, one); !strings.Contains(c.Failed, `{"b":1}, then {"b":2}`) {
		t.Errorf("%+v", c)
	}
	if c := equality(one, saying(`{"a":1}`), two); !strings.Contains(c.Failed, "2 lines, then 1") {
		t.Errorf("%+v", c)
	}
	if c := equality(one, one, one); !strings.Contains(c.Failed, "another seed gives the same run") {
		t.Errorf("%+v", c)
	}
	refused := one
	refused.notRepeatable = "personality is refused"
	if c := equality(refused, two, two); c.Failed != "" || !c.Unknown || c.Said != "personality is refused" {
		t.Errorf("%+v", c)
	}
}
