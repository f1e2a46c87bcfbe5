package wire

import (
	"encoding/json"
	"errors"
	"testing"
	"time"
)

// onFQ is a wire of 20 ms each way, 100 Mbit/s and 1% loss, as the lab has it
// on the virtual clock.
func onFQ(release Release) Config {
	c := Symmetric(Direction{Delay: 20 * time.Millisecond, Rate: 100e6, Loss: Loss{P: 0.01}})
	c.Seed, c.NoWatch, c.Release = 7, true, release
	return c
}

// carry runs this test in a guest and gives what its wire reported.
func carry(t *testing.T, args map[string]string) (c carried) {
	t.Helper()
	lines, _ := visit(t, errand{Run: "^" + t.Name() + "$", Args: args})
	if len(lines) != 1 {
		t.Fatalf("%d reports", len(lines))
	}
	if err := json.Unmarshal([]byte(lines[0]), &c); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestFQLetsFramesGoAtTheirMicrosecond(t *testing.T) {
	if inGuest() {
		r := newHosts(t)
		w := wireOf(t, r, Userspace, onFQ(AutoRelease))
		bulk(t, r, "bbr", 3*time.Second)
		report(t, w.strike())
		return
	}
	c := carry(t, nil)
	if c.Release != string(FQ) {
		t.Fatalf("release %q", c.Release)
	}
	checkConservation(t, c.Counters)
	noErrors(t, c.Counters)
	if c.ErrorP99 > 5000 || c.ErrorSeen < 200 {
		t.Errorf("delay error: p99 %d ns of %d", c.ErrorP99, c.ErrorSeen)
	}
	// A look every 10 ms takes in some 80 frames.
	if in := *c.Counters.TowardsB.In; c.Wakes > in/20 {
		t.Errorf("%d wake-ups for %d frames", c.Wakes, in)
	}
}

func TestAnIdleWireSleeps(t *testing.T) {
	if inGuest() {
		r := newHosts(t)
		w := wireOf(t, r, Userspace, onFQ(Release(args["release"])))
		r.serve(t, addrB+":7", echo)
		exchange(t, r.dial(t, addrB+":7"), 1, 100)
		time.Sleep(2 * time.Hour)
		report(t, w.strike())
		return
	}
	for _, release := range []Release{FQ, Timerfd} {
		c := carry(t, map[string]string{"release": string(release)})
		if c.Release != string(release) || c.Wakes > 100 {
			t.Errorf("%s: %d wake-ups in two hours", c.Release, c.Wakes)
		}
	}
}

func TestBothReleasesLoseTheSamePackets(t *testing.T) {
	if inGuest() {
		r := newHosts(t)
		w := wireOf(t, r, Userspace, onFQ(Release(args["release"])))
		r.serve(t, addrB+":7", echo)
		for range 4 {
			c := r.dial(t, addrB+":7")
			exchange(t, c, 40, 5000)
			c.Close()
		}
		report(t, w.strike())
		return
	}
	fq, timer := carry(t, map[string]string{"release": "fq"}), carry(t, map[string]string{"release": "timerfd"})
	if s := Share(fq.Fates.Entries(), timer.Fates.Entries()); s < 0.99 {
		t.Errorf("the share of the same packets is %.3f (%d and %d)", s, fq.Fates.Seen(), timer.Fates.Seen())
	}
	if a, b := *fq.Counters.TowardsB.Lost, *timer.Counters.TowardsB.Lost; a != b || a == 0 {
		t.Errorf("%d and %d lost", a, b)
	}
}

func TestAKernelWithoutFQSaysSo(t *testing.T) {
	r := newHosts(t)
	err := r.link.Middle.Do(func() error {
		w, err := Open(r.link.PortA, r.link.PortB, Config{Release: FQ})
		if err == nil {
			return w.Close() // this kernel has it
		}
		if w != nil || !errors.Is(err, ErrUnsupported) {
			t.Errorf("Open: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
