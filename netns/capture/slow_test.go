package capture

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"tcplab/results"
)

// hang plays a connection whose peer vanishes at 1 s, as Linux sends into the
// void at HZ 250: a tail loss probe when the RTO is due, then the backoff up to
// its limit.
func hang(tk *talk, n int) (end int64) {
	at := tk.open(0)
	tk.exchange(at+100*ms, 1, 100)
	at = 1500 * ms
	tk.send(at, 0, flagPSH|flagACK, 101, 101, 100, true)
	rto := int64(208)
	for i := range n {
		gap := min(rto, 120_000)
		granule := results.WheelGranule(float64(gap)/1e3, 250)
		at += gap*ms + int64(granule*1e9)/2
		tk.send(at, 0, flagPSH|flagACK, 101, 101, 100, true)
		if i > 0 {
			rto *= 2
		}
	}
	return at
}

func recorded(s *script, after int64, marks ...note) *Recorder {
	last := s.packets[len(s.packets)-1].at
	s.packets = append(s.packets, packet{at: last + after, data: make([]byte, 60)})
	s.notes = marks
	return &Recorder{view: s.view([2]int64{})}
}

func TestHangIsOneChainWithAProbeAtItsHead(t *testing.T) {
	s := &script{delay: 5 * ms}
	hang(s.talk(40_000), 16)
	r := recorded(s, 300_000*ms, note{1000 * ms, "fault vanish: blackhole"})
	cs := r.Chains(0)
	if len(cs) != 1 {
		t.Fatalf("%d chains: %+v", len(cs), cs)
	}
	c := cs[0]
	c.Predict(250, results.RTOMax)
	steps, beyond := c.Timeouts()
	if c.Kind != results.ChainRTO || c.Host != "client" || c.Peer != "server" || steps != 15 || beyond != 0 || !c.Steps[0].Probe {
		t.Errorf("%d timeouts, %d beyond: %+v", steps, beyond, c)
	}
	if c.Flow != "10.9.0.1:40000>10.9.0.2:9000" || c.Since != 1 || c.From != 1.5 || c.Fault != "fault vanish: blackhole" {
		t.Errorf("%+v", c)
	}
	for i, st := range c.Steps {
		p := r.view.pkts[st.Frame-1]
		if math.Abs(float64(p.at)/1e9-st.At) > 1e-9 || !p.again {
			t.Errorf("step %d is not its frame: %+v", i, st)
		}
	}
}

// What a chain is, and what is none.
func TestChainsAreRunsWithoutAnAnswer(t *testing.T) {
	for _, c := range []struct {
		name string
		tell func(*talk)
		want string // kind, steps, timeouts, end
	}{
		{"a retransmission that is answered is no chain", func(tk *talk) {
			at := tk.open(0)
			tk.send(at, 0, flagPSH|flagACK, 1, 1, 100, true)
			tk.send(at+208*ms, 0, flagPSH|flagACK, 1, 1, 100, false)
			tk.send(at+215*ms, 1, flagACK, 1, 101, 0, false)
		}, ""},
		{"a burst of repairs is no chain", func(tk *talk) {
			at := tk.open(0)
			for i := range uint32(5) {
				tk.send(at+int64(i)*ms/10, 0, flagACK, 1+i*1000, 1, 1000, i > 0 && i < 4)
			}
			sack := []byte{1, 1, optSACK, 10, 0, 0, 0x10, 0, 0, 0, 0x20, 0}
			tk.send(at+5*ms, 1, flagACK, 1, 1001, 0, false, sack...)
			for i := range uint32(3) {
				tk.send(at+12*ms+int64(i)*ms/50, 0, flagACK, 1001+i*1000, 1, 1000, false)
			}
			tk.send(at+20*ms, 1, flagACK, 1, 5001, 0, false)
		}, ""},
		{"a SACK between parts a run from the next", func(tk *talk) {
			at := tk.open(0)
			for i := range uint32(3) {
				tk.send(at+int64(i)*ms/10, 0, flagACK, 1+i*1000, 1, 1000, i == 0)
			}
			sack := []byte{1, 1, optSACK, 10, 0, 0, 0x10, 0, 0, 0, 0x20, 0}
			tk.send(at+5*ms, 1, flagACK, 1, 1, 0, false, sack...)
			tk.send(at+12*ms, 0, flagACK, 1, 1, 1000, true) // told by SACK
			tk.send(at+20*ms, 1, flagACK, 1, 1, 0, false, sack...)
			at += 20 * ms
			for _, gap := range []int64{230, 460, 920} {
				at += gap * ms
				tk.send(at, 0, flagACK, 1, 1, 1000, true)
			}
		}, "retransmission 3 3 "},
		{"a tail loss probe sends the tail, timeouts the head", func(tk *talk) {
			at := tk.open(0)
			tk.send(at, 0, flagACK, 1, 1, 1000, true)
			tk.send(at+ms, 0, flagACK, 1001, 1, 1000, true)
			tk.send(at+40*ms, 0, flagACK, 1001, 1, 1000, true)
			at += 40 * ms
			for _, gap := range []int64{212, 424, 848} {
				at += gap * ms
				tk.send(at, 0, flagACK, 1, 1, 1000, true)
			}
		}, "retransmission 4 3 "},
		{"a tail loss probe of new data is no retransmission, and the timer runs from it", func(tk *talk) {
			at := tk.open(0)
			tk.send(at, 0, flagACK, 1, 1, 1000, true)
			tk.send(at+208*ms, 0, flagACK, 1001, 1, 1000, true)
			at += 208 * ms
			for _, gap := range []int64{208, 424, 848} {
				at += gap * ms
				tk.send(at, 0, flagACK, 1, 1, 1000, true)
			}
		}, "retransmission 3 3 "},
		{"keepalive that ends in a reset", func(tk *talk) {
			at := tk.exchange(tk.open(0), 1, 100)
			for i := range int64(3) {
				tk.send(at+(60+10*i)*1000*ms, 0, flagACK, 100, 101, 0, true)
			}
			tk.send(at+90_000*ms, 0, flagRST|flagACK, 101, 101, 0, true)
		}, "keepalive 3 3 RST,ACK from client after 10.0 s"},
		{"keepalive that is answered", func(tk *talk) {
			at := tk.exchange(tk.open(0), 1, 100)
			for i := range int64(3) {
				tk.send(at+(60+60*i)*1000*ms, 0, flagACK, 100, 101, 0, false)
				tk.send(at+(60+60*i)*1000*ms+5*ms, 1, flagACK, 101, 101, 0, false)
			}
		}, ""},
		{"probes of a closed window into the void", func(tk *talk) {
			at := tk.open(0)
			tk.send(at, 0, flagPSH|flagACK, 1, 1, 1448, false)
			tk.sendWin(at+5*ms, 1, flagACK, 1, 1449, 0, 0, false)
			for _, gap := range []int64{216, 440, 880} {
				at += gap * ms
				tk.send(at, 0, flagACK, 1448, 1, 0, true)
			}
		}, "window probe 3 3 "},
		{"SYNs", func(tk *talk) {
			for _, at := range []int64{0, 1030, 3080, 7200} {
				tk.send(at*ms, 0, flagSYN, 0, 0, 0, true)
			}
		}, "SYN 3 3 "},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &script{delay: 5 * ms}
			c.tell(s.talk(40_000))
			got := ""
			for _, ch := range recorded(s, 100_000*ms).Chains(0) {
				if ch.Kind == results.ChainRTO {
					ch.Predict(250, results.RTOMax)
				}
				n, beyond := ch.Timeouts()
				got += fmt.Sprintf("%s %d %d %s", ch.Kind, len(ch.Steps), n, ch.End)
				if beyond > 0 {
					got += " beyond"
				}
			}
			if got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

func TestAnswerThatWasNotKeptPartsAChain(t *testing.T) {
	s := &script{delay: 5 * ms}
	tk := s.talk(40_000)
	at := tk.open(0)
	tk.send(at, 0, flagPSH|flagACK, 1, 1, 100, true)
	for i := range int64(4) {
		tk.send(at+(i+1)*300*ms, 0, flagPSH|flagACK, 1, 1, 100, true)
	}
	tk.send(at+700*ms, 1, flagACK, 1, 1, 0, false)
	s.leaveOut = func(p packet) bool { return p.at > at+690*ms && p.at < at+720*ms }
	for _, c := range recorded(s, 5000*ms).Chains(0) {
		if len(c.Steps) > 2 {
			t.Errorf("a chain over a packet that was left out: %+v", c)
		}
	}
}

func TestSlowFailuresHaveLadders(t *testing.T) {
	fault := note{1000 * ms, "fault vanish: blackhole"}
	for _, c := range []struct {
		show string
		tell func(*script)
		want []string // among comments and marks
	}{
		{"retransmissions", func(s *script) { hang(s.talk(40_000), 16) },
			[]string{"RTO backoff 14, at its limit of 120 s", "the one before was a tail loss probe", "silence from here on", "nothing tells server that it is over", "fault vanish"}},
		{"silence", func(s *script) { hang(s.talk(40_000), 16) }, []string{"fault vanish", "RTO backoff 5", "answer: first byte"}},
		{"keepalive", func(s *script) {
			tk := s.talk(40_000)
			at := tk.exchange(tk.open(0), 1, 100)
			for i := range int64(9) {
				tk.send(at+(7200+75*i)*1000*ms, 0, flagACK, 100, 101, 0, true)
			}
			tk.send(at+(7200+75*9)*1000*ms, 0, flagRST|flagACK, 101, 101, 0, true)
		}, []string{"keepalive probe 1 of 9, after 7,200 s of silence", "keepalive probe 3 of 9, 75.0 s after the one before; nothing has come for 7,350 s", "client gives up, 9 keepalive probes"}},
		{"reset", func(s *script) {
			tk := s.talk(40_000)
			at := tk.exchange(tk.open(0), 1, 100) + 5000*ms
			tk.send(at, 0, flagPSH|flagACK, 101, 101, 100, false)
			tk.send(at+5*ms, 1, flagRST, 101, 0, 0, false)
		}, []string{"knows no such connection", "exactly what is expected: accepted"}},
		{"reconnect", func(s *script) {
			hang(s.talk(40_000), 4)
			tk := s.talk(40_001)
			at := tk.openAt(20_000 * ms)
			tk.exchange(at, 1, 100)
		}, []string{"SYN: the connection opens", "RTO backoff 2"}},
		{"teardown", func(s *script) {
			tk := s.talk(40_000)
			at := tk.exchange(tk.open(0), 1, 100)
			tk.closes(at+ms, 0, [2]uint32{101, 101})
		}, []string{"client closes first", "TIME-WAIT"}},
		{"unanswered", func(s *script) {
			tk := s.talk(40_000)
			tk.exchange(tk.open(0), 1, 100)
			tk = s.talk(40_001)
			at := tk.openAt(100 * ms)
			tk.send(at, 0, flagPSH|flagACK, 1, 1, 100, false)
			tk.send(at+5*ms, 1, flagACK, 1, 101, 0, false)
			tk.send(at+5000*ms, 0, flagFIN|flagACK, 101, 1, 0, false)
			tk.send(at+5005*ms, 1, flagACK, 1, 102, 0, false)
		}, []string{"request 1 on this connection", "FIN: client closes first\n"}},
		{"unanswered SYN", func(s *script) {
			tk := s.talk(40_000)
			tk.exchange(tk.open(0), 1, 100)
			tk = s.talk(40_001)
			for _, at := range []int64{100, 1130, 2160} {
				tk.send(at*ms, 0, flagSYN, 0, 0, 0, true)
			}
		}, []string{"SYN: the connection opens", "retransmission 2"}},
	} {
		t.Run(c.show, func(t *testing.T) {
			s := &script{delay: 5 * ms, timers: map[string]Timers{"client": {KeepaliveProbes: 9}}}
			c.tell(s)
			var marks []note
			if slices.ContainsFunc(c.want, func(w string) bool { return strings.HasPrefix(w, "fault") }) {
				marks = append(marks, fault)
			}
			l, err := recorded(s, 300_000*ms, marks...).Ladder(c.show)
			if err != nil {
				t.Fatal(err)
			}
			text := ""
			for i, e := range l.Events {
				text += e.Comment + "\n"
				if i > 0 && e.Sent < l.Events[i-1].Sent || e.Arrived != nil && *e.Arrived < e.Sent || e.Sent < 0 {
					t.Errorf("out of order: %+v", e)
				}
			}
			for _, m := range l.Marks {
				text += m.Text + "\n"
			}
			for _, w := range c.want {
				if !strings.Contains(text, w) {
					t.Errorf("nothing says %q:\n%s", w, text)
				}
			}
			goldenJSON(t, "ladder-"+c.show+".json", l)
		})
	}
}

// A peer that never closes is in CLOSE-WAIT, and this end gets as far as
// FIN-WAIT-2; what a stopped program closes after the window is no part of it.
func TestTeardownThatIsNeverAnsweredSaysSo(t *testing.T) {
	for _, c := range []struct {
		name   string
		closes int64 // when the server does, if at all
		open   bool
	}{{"never", 0, true}, {"after the window", 50_000 * ms, true}, {"within it", 2000 * ms, false}} {
		s := &script{delay: 5 * ms}
		tk := s.talk(40_000)
		at := tk.exchange(tk.open(0), 1, 100)
		tk.send(at+ms, 0, flagFIN|flagACK, 101, 101, 0, false)
		tk.send(at+6*ms, 1, flagACK, 101, 102, 0, false)
		if c.closes > 0 {
			tk.send(c.closes, 1, flagFIN|flagACK, 101, 102, 0, false)
		}
		r := recorded(s, 100_000*ms)
		r.view.window = [2]int64{0, 10_000 * ms}
		l, err := r.Ladder("teardown")
		if err != nil {
			t.Fatal(err)
		}
		text := ""
		for _, e := range l.Events {
			text += e.Comment + "\n"
		}
		marked := len(l.Marks) == 1 && strings.HasPrefix(l.Marks[0].Text, "server never closes: CLOSE-WAIT")
		if marked != c.open || strings.Contains(text, "TIME-WAIT for 60 s") == c.open || strings.Contains(text, "server closes too") == c.open {
			t.Errorf("%s: marks %v\n%s", c.name, l.Marks, text)
		}
	}
}

func TestAskedFlowAndTimeChooseTheLadder(t *testing.T) {
	s := &script{delay: 5 * ms}
	hang(s.talk(40_000), 16)
	r := recorded(s, 300_000*ms, note{1000 * ms, "fault vanish: blackhole"})
	for _, a := range []Around{{Client: "somebody"}, {Server: "client"}, {At: 1 << 60}} {
		if l, err := r.Ladder("retransmissions", a); !errors.Is(err, ErrNoSuchPackets) {
			t.Errorf("%+v: %v, %+v", a, err, l)
		}
	}
	if _, err := r.Ladder("silence", Around{Client: "client", Server: "server", At: 1000 * ms}); err != nil {
		t.Error(err)
	}
}

// A load balancer answers a connection that it does not know in the name of
// the address that it stands for.
func TestForgedResetNamesWhoMadeIt(t *testing.T) {
	s := &script{delay: 5 * ms}
	tk := s.talk(40_000)
	at := tk.exchange(tk.open(0), 1, 100)
	tk.send(at+ms, 0, flagPSH|flagACK, 101, 101, 100, true)
	// Only the third tap sees it leave: its host forwards.
	tk.send(at+10*ms, 1, flagRST, 101, 0, 0, false)
	for i := range s.packets {
		if p := &s.packets[i]; p.out && p.at == at+10*ms {
			p.tap = 2
		}
	}
	s.points = []point{{host: "client", iface: "c0"}, {host: "server", iface: "s0"}, {host: "lb", iface: "l0"}}
	r := recorded(s, 1000*ms)
	text := ""
	for _, p := range r.view.pkts {
		text += strings.Join(p.comments, "; ") + "\n"
	}
	if strings.Count(text, "made by lb in the name of server") != 1 {
		t.Error(text)
	}
}

// openAt is open with other initial sequence numbers, as a later connection
// has.
func (t *talk) openAt(at int64) int64 {
	t.isn = [2]uint32{t.isn[0] + uint32(at), t.isn[1] + uint32(at)}
	return t.open(at)
}
