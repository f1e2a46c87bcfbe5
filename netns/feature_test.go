package netns

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// expected are the features that every machine which runs these tests must
// have: a missing one is a failure, not a skipped test.
var expected = []Feature{
	UserNamespaces, NetworkNamespaces, Sysctls, Veth, AFPacket, TPacketV3, TXTime, NFTables, NFTablesNAT,
	Conntrack, InetDiag, InetDiagDestroy, SocketDeaths, TCPInfo, CongReno, CongCubic,
}

func TestExpectedFeaturesAreThere(t *testing.T) {
	for _, f := range expected {
		if err := Have(f); err != nil {
			t.Error(err)
		}
	}
}

func TestEveryFeatureHasADefiniteAnswer(t *testing.T) {
	for _, f := range Features() {
		err := Have(f)
		var no *UnsupportedError
		switch {
		case err == nil:
		case !errors.Is(err, ErrUnsupported) || !errors.As(err, &no):
			t.Errorf("%s is undetermined: %v", f, err)
		case no.Costs == "" || no.Get == "" || strings.Contains(err.Error(), "\n"):
			t.Errorf("%s: %q does not say what it costs and how to get it in one line", f, err)
		}
	}
	if err := Have("no-such-feature"); err == nil || errors.Is(err, ErrUnsupported) {
		t.Errorf("a feature that nobody knows: %v", err)
	}
}

func TestMissingDisciplineIsUnsupportedNotUndetermined(t *testing.T) {
	p := probe{feature: "sch-none", costs: "nothing", get: "nowhere", ask: askQdisc("nonesuch")}
	if err := p.answer().err; !errors.Is(err, ErrUnsupported) || !errors.Is(err, unix.ENOENT) {
		t.Errorf("got %v", err)
	}
}

func TestProbeThatFailsIsUndeterminedAndAskedAgain(t *testing.T) {
	calls := 0
	p := probe{feature: "flaky", ask: func() (string, error) {
		calls++
		if calls == 1 {
			return "", unix.EMFILE
		}
		return "seen", nil
	}}
	if err := p.answer().err; err == nil || errors.Is(err, ErrUnsupported) {
		t.Errorf("first: %v", err)
	}
	for range 2 {
		if a := p.answer(); a.err != nil || a.detail != "seen" {
			t.Errorf("then: %+v", a)
		}
	}
	if calls != 2 {
		t.Errorf("asked %d times, want 2", calls)
	}
}

func TestDoctorSaysWhatAMissingFeatureCosts(t *testing.T) {
	list := Doctor()
	var names []string
	for _, c := range list {
		if slices.Contains(names, c.Name) {
			t.Errorf("%s is there twice", c.Name)
		}
		names = append(names, c.Name)
		if c.Answer == Undetermined || (c.Answer == Unsupported && (c.Detail == "" || c.Costs == "" || c.Get == "")) {
			t.Errorf("%+v", c)
		}
	}
	// It is asked for inside the tree and shown outside.
	b, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	var back []Capability
	if err := json.Unmarshal(b, &back); err != nil || !slices.Equal(back, list) || !strings.Contains(string(b), `"answer":"supported"`) {
		t.Errorf("%v: %s", err, b)
	}
	for _, want := range []string{"kernel", "privileges", "CPUs", "congestion control by default", "user namespaces", "tool ss"} {
		if !slices.Contains(names, want) {
			t.Errorf("no line about %s", want)
		}
	}
}
