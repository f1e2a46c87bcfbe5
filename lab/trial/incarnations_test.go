package trial

import (
	"strings"
	"testing"

	"tcplab/clients"
	"tcplab/lab/program"
	"tcplab/lab/sheet"
	"tcplab/results"
)

// A machine that is too slow shows an old segment that is refused for its
// number: a trial that does not count, and no verdict about TIME-WAIT.
func TestATrialThatDidNotOutrunTheClockDoesNotCount(t *testing.T) {
	good := clients.Succession{Bytes: 12e6, Took: 13e7, Asked: 8e6, Ahead: 10e6, Segment: 1460, Connected: true, Behind: 6e6, PeerBehind: 6e6, Place: 1, Done: true}
	for _, tt := range []struct {
		name     string
		change   func(*clients.Succession)
		held, on float64
		class    string
		says     string
	}{
		{"as it should be", func(*clients.Succession) {}, 1, 1, "", ""},
		{"too slow", func(s *clients.Succession) { s.Ahead, s.Bytes, s.Took = 1e6, 5e8, 32e9 }, 1, 1, "",
			"moved 500 MB each way in 32 s, 15.6 MB/s, and the clock of initial sequence numbers makes 15.6 MB/s: it was 1 MB ahead of it, and 8 MB were asked for"},
		{"caught up", func(s *clients.Succession) { s.Behind, s.Place = -5, 0 }, 1, 1, "", "had caught up when the second connection was opened"},
		{"the server's side caught up", func(s *clients.Succession) { s.PeerBehind = -5 }, 1, 1, "", "begins 5 B beyond what the old segment acknowledges"},
		{"with timestamps that is TIME-WAIT's doing", func(s *clients.Succession) { s.PeerBehind, s.Timestamps = -5, true }, 1, 1, "", ""},
		{"nothing was asked for", func(s *clients.Succession) { s.Asked, s.Ahead, s.Behind, s.PeerBehind, s.Place = 0, 1, -5, -5, 0 }, 1, 1, "", ""},
		{"the second one was not let in", func(s *clients.Succession) {
			s.Connected, s.Class, s.Done, s.Place, s.Behind = false, "ETIMEDOUT", false, 0, 0
		}, 1, 0, "ETIMEDOUT", ""},
		{"the first one broke", func(s *clients.Succession) { *s = clients.Succession{Asked: 0} }, 1, 0, "ECONNRESET", "the first connection did not come to its end: ECONNRESET"},
		{"no time was left", func(s *clients.Succession) { s.Done = false }, 1, 1, "unfinished", "give it more time"},
		{"nothing was held", func(*clients.Succession) {}, 0, 0, "", "held no segment"},
		{"it was not let go", func(*clients.Succession) {}, 1, 0, "", "did not let the segment go"},
	} {
		s := good
		tt.change(&s)
		r := &program.ClientResult{Result: clients.Result{Succession: &s, FirstErrorClass: tt.class, Counts: clients.Counts{Errors: map[string]int64{tt.class: 1}}}}
		o := &one{
			arm: sheet.Arm{
				Clients: []sheet.Client{{Name: "client", Kind: clients.Incarnations}},
				Faults:  []sheet.Fault{{Name: "stray", On: "wire", OnKind: "link", Do: "hold"}},
			},
			out: results.Trial{Metrics: map[string]results.Quantity{"wire.held": {Value: tt.held}, "wire.released": {Value: tt.on}}},
		}
		m := &measured{clients: map[string]*program.ClientResult{"client": r}}
		o.validateIncarnations(m)
		got := strings.Join(m.reasons, "; ")
		if tt.says == "" && got != "" || !strings.Contains(got, tt.says) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.says)
		}
	}
}
