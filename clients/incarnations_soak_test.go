//go:build soak

package clients_test

import (
	"context"
	"testing"

	"tcplab/clients"
	"tcplab/server"
)

// A first incarnation has to send 15.6 MB/s for two seconds, with everything
// else that a machine has to do: that is a soak test's. In every ordinary run
// the same is held on the virtual clock, by the experiment old-duplicates.
func TestASecondIncarnationBeginsBehindAFirstThatOutranTheClock(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	gate(t)
	sysctl(t, "net.ipv4.tcp_timestamps", "0")
	s := serve(t, server.Config{Kind: server.Discard, Listen: "127.0.0.1:0"})
	const ahead = 32 << 20 // two seconds of the clock: a busy machine may take its time
	r, k := twice(t, context.Background(), clients.Config{To: []string{s.addr}, Closes: clients.ByServer, Outrun: clients.Outrun{Ahead: ahead}})
	got := s.stop()
	is := r.Succession
	if !is.Done || !is.Connected || is.Ahead < ahead || is.Bytes < ahead || is.Timestamps || r.Opens != 2 || r.Established != 2 {
		t.Fatalf("%+v, %d opens, %v", is, r.Opens, r.Errors)
	}
	// The clock gains some while the one ends and the other begins, and nothing
	// else parts them.
	if is.Behind <= 0 || is.Behind > is.Bytes || is.PeerBehind <= 0 {
		t.Errorf("behind %d, the server's side %d", is.Behind, is.PeerBehind)
	}
	if is.Place == 0 || is.Written < is.Behind {
		t.Errorf("at the place %d, %d written of %d", is.Place, is.Written, is.Behind)
	}
	if got.Incarnations != 2 || got.LaterRead != is.Written || got.Stale != 0 || got.Misplaced != 0 {
		t.Errorf("the server: %+v", got)
	}
	// TIME-WAIT stood in the way, and was killed (RFC 1337).
	if atServer, atClient := timeWait(t, s.addr); atServer != 1 || atClient != 0 {
		t.Errorf("TIME-WAITs: %d at the server, %d at the client", atServer, atClient)
	}
	if n := snmp(t, "RetransSegs"); n == 0 {
		t.Error("no SYN was sent again")
	}
	for _, name := range []string{"marked", "second", "behind", "place", "over"} {
		if len(k.named(name)) != 1 {
			t.Errorf("event %s: %d times", name, len(k.named(name)))
		}
	}
}
