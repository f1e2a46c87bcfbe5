package trial

import (
	"testing"

	"tcplab/lab/sheet"
	"tcplab/lab/sheets"
)

// churn counts SYNs on the wire, which netem cannot: a kernel that has netem
// must not take the count away.
func TestLinkWhoseSYNsAreCountedGetsAWireThatCountsThem(t *testing.T) {
	text, _ := sheets.Text("churn")
	e, err := sheet.Parse("churn.yaml", text, sheet.Options{Profile: "quick"})
	if err != nil {
		t.Fatal(err)
	}
	link := e.Arms[0].Links[0]
	if s := (&stage{arm: e.Arms[0], counted: counted(e)}); s.wireKind(link) != "userspace" {
		t.Errorf("wire %s", s.wireKind(link))
	}
	e.Expect, e.Predict = nil, nil
	if s := (&stage{arm: e.Arms[0], counted: counted(e)}); s.wireKind(link) != "auto" {
		t.Errorf("nobody counts, and the wire is %s", s.wireKind(link))
	}
}
