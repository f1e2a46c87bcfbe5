package middlebox

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const second = int64(time.Second)

func addr(s string) netip.AddrPort {
	if !strings.Contains(s, ":") {
		s += ":0"
	}
	return netip.MustParseAddrPort(s)
}

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

// segment makes a TCP packet of "SRC > DST FLAGS", flags as tcpdump has them.
func segment(s string) *Packet {
	f := strings.Fields(s)
	p := &Packet{Proto: TCP, TTL: 64, Src: addr(f[0]), Dst: addr(f[2]), Seq: 1000, Ack: 2000}
	for _, c := range f[3] {
		p.Flags |= map[rune]uint8{'S': SYN, '.': ACK, 'F': FIN, 'R': RST, 'P': ACK}[c]
		if c == 'P' {
			p.Payload = 100
		}
	}
	return p
}

func show(out []Out) string {
	var s []string
	for _, o := range out {
		t := fmt.Sprintf("%v > %v", o.Src, o.Dst)
		if r := o.Reset; r != nil {
			t += fmt.Sprintf(" RST flags %#x seq %d ack %d", r.Flags, r.Seq, r.Ack)
		}
		s = append(s, t)
	}
	return strings.Join(s, "; ")
}

// twoSides routes 10.1.* to interface 0 and everything else to interface 1.
func twoSides(a netip.Addr) int {
	if a.As4()[1] == 1 {
		return 0
	}
	return 1
}

func policy(t testing.TB, c Config) Policy {
	t.Helper()
	c.Route = twoSides
	c.Own = []netip.Addr{ip("10.1.0.1"), ip("10.2.0.1")}
	p, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// step is what comes (a segment, a fault's verb, or nothing) and what leaves.
type step struct {
	at   time.Duration
	came string
	left string
}

func run(t *testing.T, p Policy, steps []step) {
	t.Helper()
	for _, s := range steps {
		if !strings.Contains(s.came, ">") {
			f := Fault{Do: s.came}
			verb, rest, _ := strings.Cut(s.came, " ")
			switch verb {
			case "drop-target", "add-target":
				f = Fault{Do: verb, Target: Target{Addr: ip(rest)}}
			case "rst", "drop":
				f = Fault{Do: "set", Set: Change{OnUnknown: &verb}}
			case "idle":
				d, err := time.ParseDuration(rest)
				if err != nil {
					t.Fatal(err)
				}
				f = Fault{Do: "set", Set: Change{Idle: &d}}
			}
			if err := p.Do(f); err != nil {
				t.Fatalf("%v %s: %v", s.at, s.came, err)
			}
			continue
		}
		if got := show(p.Packet(int64(s.at), 0, segment(s.came))); got != s.left {
			t.Errorf("%v %s:\n  leaves as %q\n  wanted    %q", s.at, s.came, got, s.left)
		}
	}
}

const (
	vip    = "10.9.0.1"
	client = "10.1.0.2:4000"
)

func one(c Config) Config {
	c.Kind, c.Addresses, c.Targets = L4LB, []netip.Addr{ip(vip)}, []Target{{Addr: ip("10.2.0.2")}}
	return c
}

func TestABalancerRewritesBothWays(t *testing.T) {
	run(t, policy(t, one(Config{})), []step{
		{0, client + " > 10.9.0.1:80 S", "10.2.0.1:4000 > 10.2.0.2:80"},
		{0, "10.2.0.2:80 > 10.2.0.1:4000 S.", "10.9.0.1:80 > " + client},
		{1, client + " > 10.9.0.1:80 P", "10.2.0.1:4000 > 10.2.0.2:80"},
		{2, "10.2.0.2:80 > 10.2.0.1:4000 F.", "10.9.0.1:80 > " + client},
	})
}

func TestABalancerThatPreservesTheClientChangesTheDestinationOnly(t *testing.T) {
	run(t, policy(t, one(Config{PreserveClient: true})), []step{
		{0, client + " > 10.9.0.1:80 S", client + " > 10.2.0.2:80"},
		{0, "10.2.0.2:80 > " + client + " S.", "10.9.0.1:80 > " + client},
	})
}

func TestATargetsOwnPortIsUsed(t *testing.T) {
	c := one(Config{})
	c.Targets[0].Port = 8080
	run(t, policy(t, c), []step{
		{0, client + " > 10.9.0.1:80 S", "10.2.0.1:4000 > 10.2.0.2:8080"},
		{0, "10.2.0.2:8080 > 10.2.0.1:4000 S.", "10.9.0.1:80 > " + client},
	})
}

func TestAForgottenFlowVanishesOrIsReset(t *testing.T) {
	run(t, policy(t, one(Config{})), []step{
		{0, client + " > 10.9.0.1:80 S", "10.2.0.1:4000 > 10.2.0.2:80"},
		{0, "forget-flows", ""},
		{1, client + " > 10.9.0.1:80 P", ""},
		{1, "10.2.0.2:80 > 10.2.0.1:4000 F.", ""},
		{2, "rst", ""},
		{2, client + " > 10.9.0.1:80 P", "10.9.0.1:80 > " + client + " RST flags 0x4 seq 2000 ack 0"},
		{2, "10.2.0.2:80 > 10.2.0.1:4000 F.", "10.2.0.1:4000 > 10.2.0.2:80 RST flags 0x4 seq 2000 ack 0"},
		{2, client + " > 10.9.0.1:80 F", "10.9.0.1:80 > " + client + " RST flags 0x14 seq 0 ack 1001"},
		{2, client + " > 10.9.0.1:80 R", ""}, // a RST is never answered
		{2, client + " > 10.9.0.1:80 S", "10.2.0.1:4000 > 10.2.0.2:80"},
	})
}

func TestFlowsUnusedForTheIdleTimeAreForgotten(t *testing.T) {
	p := policy(t, one(Config{Idle: 350 * time.Second}))
	run(t, p, []step{
		{0, client + " > 10.9.0.1:80 S", "10.2.0.1:4000 > 10.2.0.2:80"},
		{300 * time.Second, client + " > 10.9.0.1:80 P", "10.2.0.1:4000 > 10.2.0.2:80"},
		{650*time.Second - 1, "10.2.0.2:80 > 10.2.0.1:4000 P", "10.9.0.1:80 > " + client},
	})
	if got, want := p.Wake(700*second), 1000*second-1; got != want {
		t.Errorf("wakes at %d, want %d: an idle time after the last packet", got, want)
	}
	run(t, p, []step{{1000 * time.Second, client + " > 10.9.0.1:80 P", ""}})
	if c := p.Counts(); c.Expired != 1 || c.Unknown != 1 || p.Wake(1000*second) != Never {
		t.Errorf("%+v", c)
	}
	// A shorter time counts for the flows that are there.
	run(t, p, []step{
		{1000 * time.Second, client + " > 10.9.0.1:80 S", "10.2.0.1:4000 > 10.2.0.2:80"},
		{1001 * time.Second, "idle 5s", ""},
		{1005 * time.Second, client + " > 10.9.0.1:80 P", ""},
	})
}

func TestAFlowThatIsOverIsForgottenTwoMinutesLater(t *testing.T) {
	p := policy(t, one(Config{}))
	run(t, p, []step{
		{0, client + " > 10.9.0.1:80 S", "10.2.0.1:4000 > 10.2.0.2:80"},
		{0, client + " > 10.9.0.1:80 F.", "10.2.0.1:4000 > 10.2.0.2:80"},
	})
	if p.Wake(0) != Never {
		t.Error("half closed is not over")
	}
	run(t, p, []step{
		{time.Second, "10.2.0.2:80 > 10.2.0.1:4000 F.", "10.9.0.1:80 > " + client},
		{2 * time.Second, client + " > 10.9.0.1:80 .", "10.2.0.1:4000 > 10.2.0.2:80"},
	})
	if got := p.Wake(3 * second); got != 122*second {
		t.Errorf("wakes at %d s", got/second)
	}
	// A SYN on the same ports begins another flow meanwhile.
	run(t, p, []step{{4 * time.Second, client + " > 10.9.0.1:80 S", "10.2.0.1:4000 > 10.2.0.2:80"}})
	if c := p.Counts(); c.Opened != 2 || p.Wake(5*second) != Never {
		t.Errorf("%+v", c)
	}
}

// Two addresses of a balancer, one client port, one target: the newest SYN
// takes the way back, and the first connection's answers go astray.
func TestTheNewestSYNTakesTheWayBack(t *testing.T) {
	c := one(Config{PreserveClient: true, CrossZone: true})
	c.Addresses = append(c.Addresses, ip("10.9.0.2"))
	run(t, policy(t, c), []step{
		{0, client + " > 10.9.0.1:80 S", client + " > 10.2.0.2:80"},
		{0, "10.2.0.2:80 > " + client + " S.", "10.9.0.1:80 > " + client},
		{0, client + " > 10.9.0.2:80 S", client + " > 10.2.0.2:80"},
		{0, "10.2.0.2:80 > " + client + " .", "10.9.0.2:80 > " + client},
		{0, client + " > 10.9.0.1:80 P", client + " > 10.2.0.2:80"},
	})
}

func TestWithoutCrossZoneEachAddressHasItsOwnTargets(t *testing.T) {
	c := Config{Kind: L4LB, PreserveClient: true, Addresses: []netip.Addr{ip("10.9.0.1"), ip("10.9.0.2")},
		Targets: []Target{{Addr: ip("10.2.0.2")}, {Addr: ip("10.2.0.3")}, {Addr: ip("10.2.0.4")}}}
	went := func(cross bool) map[string]bool {
		c.CrossZone = cross
		p, seen := policy(t, c), map[string]bool{}
		for port := 1000; port < 1100; port++ {
			for _, v := range []string{"10.9.0.1:80", "10.9.0.2:80"} {
				out := p.Packet(0, 0, segment(fmt.Sprintf("10.1.0.2:%d > %s S", port, v)))
				seen[v+" "+out[0].Dst.Addr().String()] = true
			}
		}
		return seen
	}
	if got := went(false); len(got) != 3 || got["10.9.0.1:80 10.2.0.3"] {
		t.Errorf("%v", got)
	}
	if got := went(true); len(got) != 6 {
		t.Errorf("%v", got)
	}
}

func TestATargetThatIsTakenOutGetsNoNewFlow(t *testing.T) {
	run(t, policy(t, one(Config{OnUnknown: SendReset})), []step{
		{0, client + " > 10.9.0.1:80 S", "10.2.0.1:4000 > 10.2.0.2:80"},
		{0, "drop-target 10.2.0.2", ""},
		{0, client + " > 10.9.0.1:80 P", "10.2.0.1:4000 > 10.2.0.2:80"},
		{0, "10.1.0.2:4001 > 10.9.0.1:80 S", "10.9.0.1:80 > 10.1.0.2:4001 RST flags 0x14 seq 0 ack 1001"},
		{0, "add-target 10.2.0.3", ""},
		{0, "10.1.0.2:4001 > 10.9.0.1:80 S", "10.2.0.1:4001 > 10.2.0.3:80"},
		{0, "drop-target 10.2.0.3", ""},
		{0, "add-target 10.2.0.2", ""},
		{0, "10.1.0.2:4002 > 10.9.0.1:80 S", "10.2.0.1:4002 > 10.2.0.2:80"},
	})
}

func TestANATKeepsThePortAsLongAsItIsFree(t *testing.T) {
	run(t, policy(t, Config{Kind: NAT, Ports: [2]uint16{4000, 4001}}), []step{
		{0, client + " > 10.2.0.9:80 S", "10.2.0.1:4000 > 10.2.0.9:80"},
		{0, "10.1.0.3:4000 > 10.2.0.9:80 S", "10.2.0.1:4001 > 10.2.0.9:80"},
		{0, "10.2.0.9:80 > 10.2.0.1:4001 S.", "10.2.0.9:80 > 10.1.0.3:4000"},
		{0, "10.1.0.4:4000 > 10.2.0.9:80 S", ""},                            // no port is left
		{0, "10.1.0.4:4000 > 10.2.0.8:80 S", "10.2.0.1:4000 > 10.2.0.8:80"}, // towards another one is
		{0, "10.2.0.9:80 > 10.2.0.1:4777 S", ""},
		{0, "10.1.0.4:4009 > 10.2.0.9:80 P", ""},
	})
}

func TestAFlowTableKnowsFlowsFromTheirSYNOnAndHasABound(t *testing.T) {
	p := policy(t, Config{Kind: FlowTable, Max: 1})
	run(t, p, []step{
		{0, client + " > 10.2.0.9:80 P", ""},
		{0, client + " > 10.2.0.9:80 S", client + " > 10.2.0.9:80"},
		{0, "10.2.0.9:80 > " + client + " S.", "10.2.0.9:80 > " + client},
		{0, "10.1.0.3:1 > 10.2.0.9:80 S", ""},
		{0, client + " > 10.2.0.9:80 P", client + " > 10.2.0.9:80"},
	})
	if c := p.Counts(); c.Refused != 1 || c.Unknown != 1 || c.Most != 1 || c.Forwarded != 3 {
		t.Errorf("%+v", c)
	}
}

func TestWhatIsNoPolicyIsRefused(t *testing.T) {
	for _, c := range []Config{
		{Kind: "hub"}, {Kind: L4LB}, {Kind: NAT, Ports: [2]uint16{9, 8}}, {Kind: NAT, OnUnknown: "shrug"},
	} {
		c.Route = twoSides
		if _, err := New(c); err == nil {
			t.Errorf("%+v was taken", c)
		}
	}
	if err := policy(t, Config{Kind: NAT}).Do(Fault{Do: "drop-target"}); err == nil {
		t.Error("a NAT has no targets")
	}
}

// Whatever comes: what a flow's packet becomes is undone by the way back, and
// no two live flows of a NAT share an outer port towards one server.
func TestTheWayBackUndoesTheWayThere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kind := rapid.SampledFrom([]string{L4LB, NAT}).Draw(t, "kind")
		cfg := Config{Kind: kind, Route: twoSides, Own: []netip.Addr{ip("10.1.0.1"), ip("10.2.0.1")},
			Idle: 10 * time.Second, Ports: [2]uint16{1, 40}, Targets: []Target{{Addr: ip("10.2.0.2")}, {Addr: ip("10.2.0.3")}}}
		server := "10.2.0.9:80"
		if kind == L4LB {
			cfg.Addresses, server = []netip.Addr{ip(vip)}, vip+":80"
			cfg.CrossZone = true
		}
		p, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		now := int64(0)
		live := map[Out]string{} // as they leave → who opened it
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now += int64(rapid.IntRange(0, 2).Draw(t, "seconds")) * second
			from := fmt.Sprintf("10.1.0.%d:%d", rapid.IntRange(2, 4).Draw(t, "host"), rapid.IntRange(1, 9).Draw(t, "port"))
			flags := rapid.SampledFrom([]string{"S", "P", "F.", "R"}).Draw(t, "flags")
			out := p.Packet(now, 0, segment(from+" > "+server+" "+flags))
			if len(out) == 0 {
				continue
			}
			o := out[0]
			if who, taken := live[o]; taken && who != from && flags != "S" {
				t.Fatalf("%s leaves as %s, which is %s's", from, show(out), who)
			}
			live[o] = from
			back := &Packet{Proto: TCP, TTL: 64, Src: o.Dst, Dst: o.Src, Flags: ACK}
			if got := show(p.Packet(now, 1, back)); got != server+" > "+from {
				t.Fatalf("%s left as %s, and its answer comes back as %s", from, show(out), got)
			}
			if at := p.Wake(now); at <= now {
				t.Fatalf("at %d it wants to wake at %d", now, at)
			}
		}
		if now += int64(closingIdle); p.Wake(now) != Never {
			t.Fatal("flows outlive their idle time")
		}
		c := p.Counts()
		if c.Opened != c.Expired {
			t.Fatalf("%+v: what was opened is not what expired", c)
		}
	})
}
