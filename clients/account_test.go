package clients

import (
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tcplab/lab/socket"
)

// tell is a Sink for accounts made up by tests.
type tell struct {
	mu      sync.Mutex
	events  []string
	samples map[int64]map[string]float64 // by bin
	t0      int64
}

func (k *tell) Event(_ int64, name string, fields map[string]any) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if p, ok := fields["phase"]; ok {
		name += " " + p.(string)
	}
	if c, ok := fields["class"]; ok {
		name += " " + c.(string)
	}
	k.events = append(k.events, name)
}

func (k *tell) Sample(at int64, values map[string]float64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.samples[(at-k.t0)/binLength] = values
}

const ms = int64(time.Millisecond)

// book makes an account with a warm-up of 1 s and a window of 2 s.
func book(t *testing.T, cpu func() int64) (*meter, *reporter, *tell) {
	t.Helper()
	t0 := int64(5e9)
	k := &tell{samples: map[int64]map[string]float64{}, t0: t0}
	r := newReporter(k, t0, 1)
	m := newMeter(Config{Warmup: time.Second, Duration: 2 * time.Second}, t0, r, 0, cpu)
	m.running(t0)
	return m, r, k
}

func TestOnlyRequestsMeantForTheWindowAreInIt(t *testing.T) {
	m, r, k := book(t, nil)
	request := func(intended, took int64, class string) {
		intended += m.t0
		m.offered(intended)
		m.begin(intended, 0, intended)
		if class != "" {
			m.fail(intended, intended+took, class, true)
		} else {
			m.ok(intended, intended, intended+took, intended+took)
		}
	}
	request(100*ms, 5*ms, "")              // warm-up
	request(999*ms, 50*ms, "")             // warm-up, though it ends in the window
	request(1000*ms, 7*ms, "")             // the first
	request(2500*ms, 9*ms, "EPIPE")        // fails
	request(2999*ms, 2000*ms, "")          // the last: it ends long after
	request(3000*ms, 5*ms, "ECONNREFUSED") // too late
	m.finish(m.t0 + 6000*ms)
	r.stop()
	got := merge(Config{}, []*meter{m}, r)
	if got.Offered != 3 || got.OK != 2 || got.Failed != 1 || got.Unfinished != 0 || got.Total.OK != 4 || got.Total.Failed != 2 {
		t.Errorf("window %+v, total %+v", got.Counts, got.Total)
	}
	if !maps.Equal(got.Errors, map[string]int64{"EPIPE": 1}) || !maps.Equal(got.Total.Errors, map[string]int64{"EPIPE": 1, "ECONNREFUSED": 1}) {
		t.Errorf("errors %v, total %v", got.Errors, got.Total.Errors)
	}
	if got.FirstError != m.t0+2509*ms || got.FirstErrorClass != "EPIPE" {
		t.Errorf("first error %s at %d", got.FirstErrorClass, got.FirstError-m.t0)
	}
	if h := got.Histograms["latency"]; h.TotalCount() != 2 || h.Min() > 7*ms || h.Max() < 2000*ms {
		t.Errorf("latency: %d values, %d to %d", h.TotalCount(), h.Min(), h.Max())
	}
	if want := []string{"phase warmup", "phase measure", "error EPIPE", "failing EPIPE", "phase drain", "working", "error ECONNREFUSED", "failing ECONNREFUSED"}; !slices.Equal(sorted(k.events), sorted(want)) {
		t.Errorf("events %v", k.events)
	}
}

func sorted(s []string) []string { return slices.Sorted(slices.Values(s)) }

func TestSamplesStandInTheMiddleOfTheirBinAndGapsHaveTheirEdges(t *testing.T) {
	m, r, k := book(t, nil)
	at := func(offset int64) {
		i := m.t0 + offset
		m.offered(i)
		m.begin(i, 0, i)
		m.ok(i, i, i+ms, i+ms)
	}
	at(10 * ms)
	at(20 * ms)
	at(150 * ms)
	at(950 * ms) // after a gap of bins 2 to 8
	at(1150 * ms)
	m.finish(m.t0 + 3050*ms) // the last bin is 30
	r.stop()
	sent := map[int64]float64{}
	for bin, v := range k.samples {
		sent[bin] = v["sent"]
	}
	if want := map[int64]float64{0: 2, 1: 1, 2: 0, 8: 0, 9: 1, 10: 0, 11: 1, 12: 0, 29: 0, 30: 0}; !maps.Equal(sent, want) {
		t.Errorf("sent by bin %v, want %v", sent, want)
	}
	if p50 := k.samples[0]["latency.p50"]; p50 < float64(ms)*0.98 || p50 > float64(ms)*1.02 {
		t.Errorf("latency.p50 of 1 ms is %g ns", p50)
	}
	if _, ok := k.samples[0]["latency.p99"]; ok {
		t.Error("a p99 of two")
	}
}

func TestLagInBinsThatThePortSearchTookIsExcused(t *testing.T) {
	var cpu int64
	m, r, k := book(t, func() int64 { return cpu })
	call := func(offset, took, burnt int64) {
		i := m.t0 + offset
		m.offered(i)
		m.begin(i, 0, i+3*ms) // three late
		m.called(i, i+3*ms, took, took, true)
		cpu += burnt
		m.ok(i, i+3*ms, i+4*ms, i+4*ms)
	}
	call(1010*ms, 10*ms, 100*ms) // the thread had other things to do
	call(1110*ms, 60*ms, 100*ms) // it searched for a port
	call(1210*ms, 50*ms, 100*ms) // half is not more than half
	m.finish(m.t0 + 3000*ms)
	r.stop()
	got := merge(Config{}, []*meter{m}, r)
	if a, b := got.Histograms["lag"].TotalCount(), got.Histograms["lag_excused"].TotalCount(); a != 2 || b != 1 {
		t.Errorf("%d lags, %d excused", a, b)
	}
	if share := k.samples[11]["connect.cpu"]; share != 0.6 {
		t.Errorf("connect() had %g of the CPU", share)
	}
	if p := k.samples[11]["connect.call.p50"]; p < 59e6 || p > 61e6 {
		t.Errorf("connect.call.p50 of 60 ms is %g ns", p)
	}
}

func TestLagCountsFromWhereASlotBecameFree(t *testing.T) {
	m, r, _ := book(t, nil)
	i := m.w0 + 10*ms
	m.offered(i)
	m.begin(i, i+40*ms, i+41*ms) // waited 40 ms for a slot, 1 ms for us
	m.ok(i, i+41*ms, i+50*ms, i+50*ms)
	m.finish(m.w1)
	r.stop()
	h := merge(Config{}, []*meter{m}, r).Histograms
	if lag, latency, service := h["lag"].Max(), h["latency"].Max(), h["service"].Max(); lag > 2*ms || latency < 49*ms || service > 10*ms {
		t.Errorf("lag %d, latency %d, service %d", lag, latency, service)
	}
}

// A sink that hangs must not hold up the requests, nor lose counts.
func TestSlowSinkCostsResolutionAndNothingElse(t *testing.T) {
	gate := make(chan struct{})
	sink := &slowSink{gate: gate}
	t0 := int64(0)
	r := newReporter(sink, t0, 1)
	m := newMeter(Config{Duration: time.Hour}, t0, r, 0, nil)
	m.running(t0)
	const bins = 1000
	for i := range int64(bins) {
		at := i*binLength + 1
		m.offered(at)
		m.begin(at, 0, at)
		m.ok(at, at, at+1, at+1)
	}
	close(gate)
	m.finish(bins * binLength)
	r.stop()
	got := merge(Config{}, []*meter{m}, r)
	if got.OK != bins || sink.ok != bins || got.SamplesLost == 0 || got.Histograms["lag"].TotalCount() != bins {
		t.Errorf("%d ok, %g in samples, %d samples lost, %d lags", got.OK, sink.ok, got.SamplesLost, got.Histograms["lag"].TotalCount())
	}
}

type slowSink struct {
	gate chan struct{}
	ok   float64
}

func (s *slowSink) Event(int64, string, map[string]any) {}
func (s *slowSink) Sample(_ int64, v map[string]float64) {
	<-s.gate
	s.ok += v["ok"]
}

func TestShardsAreAddedUpBinByBin(t *testing.T) {
	k := &tell{samples: map[int64]map[string]float64{}}
	r := newReporter(k, 0, 2)
	ms := []*meter{newMeter(Config{Duration: time.Hour}, 0, r, 0, nil), newMeter(Config{Duration: time.Hour}, 0, r, 1, nil)}
	for shard, bins := range [][]int64{{0, 1, 2, 5}, {1, 5, 6}} {
		m := ms[shard]
		m.running(0)
		for _, b := range bins {
			at := b * binLength
			m.offered(at)
			m.begin(at, 0, at)
			m.ok(at, at, at+1, at+1)
		}
		m.finish(7*binLength - 1)
	}
	r.stop()
	ok := map[int64]float64{}
	for b, v := range k.samples {
		ok[b] = v["ok"]
	}
	if want := map[int64]float64{0: 1, 1: 2, 2: 1, 3: 0, 4: 0, 5: 2, 6: 1}; !maps.Equal(ok, want) {
		t.Errorf("%v, want %v", ok, want)
	}
}

func TestPausesEndInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 20).Draw(t, "users")
		q := queue{ring: make([]int64, n)}
		var want []int64
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			if len(want) < n && rapid.Bool().Draw(t, "push") {
				at := rapid.Int64Range(0, 100).Draw(t, "at")
				q.push(at)
				want = append(want, at)
				slices.Sort(want)
			} else if len(want) > 0 {
				if q.first() != want[0] {
					t.Fatalf("first is %d, want %d of %v", q.first(), want[0], want)
				}
				q.pop()
				want = want[1:]
			} else if q.first() != socket.Never {
				t.Fatalf("an empty queue begins with %d", q.first())
			}
		}
	})
}

func TestListKeepsItsOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var l list
		var want []*conn
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			switch rapid.IntRange(0, 2).Draw(t, "step") {
			case 0:
				c := &conn{}
				l.pushBack(c)
				want = append(want, c)
			case 1:
				c := &conn{}
				l.pushFront(c)
				want = slices.Insert(want, 0, c)
			case 2:
				if len(want) > 0 {
					i := rapid.IntRange(0, len(want)-1).Draw(t, "i")
					l.remove(want[i])
					want = slices.Delete(want, i, i+1)
				}
			}
			var there, back []*conn
			for c := l.head; c != nil; c = c.next {
				there = append(there, c)
			}
			for c := l.tail; c != nil; c = c.prev {
				back = append(back, c)
			}
			slices.Reverse(back)
			if !slices.Equal(there, want) || !slices.Equal(back, want) {
				t.Fatalf("%v and %v, want %v", there, back, want)
			}
		}
	})
}
