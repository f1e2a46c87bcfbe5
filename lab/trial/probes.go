package trial

import (
	"context"
	"fmt"
	"sync"
	"time"

	"tcplab/lab/clock"
	"tcplab/netns"
	"tcplab/netns/probe"
)

// edge is what the counters of a host were at one end of the window.
type edge struct {
	counters map[string]int64
	timeWait int64
	at       int64
}

// sampler reads the probes of all hosts while a trial runs.
type sampler struct {
	rec   *recorder
	names []string // hosts, in the sheet's order
	by    map[string]*probe.Probe
	ports map[string][2]int
	kick  chan struct{}
	trk   *trackers           // of routers; nil: none
	last  map[string][6]int64 // what the last reading gave

	mu    sync.Mutex
	edges map[string][2]edge
	err   error
}

func newSampler(rec *recorder, names []string, hosts map[string]*netns.Host, ports map[string][2]int) (*sampler, error) {
	s := &sampler{rec: rec, names: names, by: map[string]*probe.Probe{}, ports: ports, edges: map[string][2]edge{}, kick: make(chan struct{}, 1), last: map[string][6]int64{}}
	for _, n := range names {
		err := hosts[n].Do(func() (err error) {
			s.by[n], err = probe.Open()
			return err
		})
		if err != nil {
			s.close()
			return nil, lacks(fmt.Errorf("host %s: %w", n, err))
		}
	}
	return s, nil
}

// seen tells that a packet opened or closed a connection: the probes are read
// soon. It never blocks.
func (s *sampler) seen() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// run samples from t0 until ctx ends, and takes the edges of the window.
func (s *sampler) run(ctx context.Context, t0, from, to int64, virtual bool) {
	edges := []int64{from, to}
	p := pace{virtual: virtual}
	var kick <-chan struct{}
	if virtual {
		kick = s.kick
	}
	n, last := 0, int64(0)
	for at := t0; ; {
		early, err := sleepOr(ctx, at, kick)
		if err != nil {
			return
		}
		if early {
			at = min(at, t0+p.soon(clock.Now()-t0))
			if clock.SleepUntil(ctx, at) != nil {
				return
			}
		}
		for i, e := range edges {
			if at >= e {
				s.edge(i, e)
				edges[i] = 1<<63 - 1
			}
		}
		census := n%censusEvery == 0 || virtual && p.step == 0 && at-last >= censusEvery*sampleEvery
		if census {
			last = at
		}
		changed := s.sample(census)
		n++
		next := t0 + p.next(clock.Now()-t0, changed)
		for _, e := range edges {
			if e > at && e < next {
				next = e
			}
		}
		at = next
	}
}

// sleepOr returns at the instant at, or true before it when something was
// seen.
func sleepOr(ctx context.Context, at int64, kick <-chan struct{}) (early bool, err error) {
	t := time.NewTimer(time.Duration(at - clock.Now()))
	defer t.Stop()
	select {
	case <-t.C:
		return false, nil
	case <-kick:
		return true, nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// edge keeps the counters at the start (0) or the end (1) of the window.
func (s *sampler) edge(i int, at int64) {
	for _, n := range s.names {
		c, err := s.by[n].Counters()
		st, err2 := s.by[n].Sockstat()
		if err != nil || err2 != nil {
			s.fail(n, err, err2)
			continue
		}
		s.mu.Lock()
		e := s.edges[n]
		e[i] = edge{c, st.TimeWait, at}
		s.edges[n] = e
		s.mu.Unlock()
	}
}

var sampled = []string{"TcpActiveOpens", "TcpRetransSegs"}

// sample reads all hosts, and says whether anything differs from the last time.
func (s *sampler) sample(census bool) (changed bool) {
	values := make([]int64, len(sampled))
	for _, n := range s.names {
		p := s.by[n]
		at := clock.Now()
		st, err := p.Sockstat()
		err2 := p.Sample(sampled, values)
		if err != nil || err2 != nil {
			s.fail(n, err, err2)
			continue
		}
		ct, _, err := s.trk.sample(s.rec, n, at)
		if err != nil {
			s.fail(n, err)
			continue
		}
		now := [6]int64{st.TimeWait, values[0], values[1], ct.invalid, ct.drop, ct.early}
		changed = changed || s.last[n] != now
		s.last[n] = now
		s.rec.add(n, "sockets.time_wait", at, float64(st.TimeWait))
		s.rec.add(n, "handshakes", at, float64(values[0]))
		s.rec.add(n, "retransmits", at, float64(values[1]))
		if !census {
			continue
		}
		c, err := p.Census(s.ports[n])
		if err != nil {
			s.fail(n, err, nil)
			continue
		}
		for state, name := range censusSeries {
			s.rec.add(n, name, at, float64(c.ByState[state]))
		}
		s.rec.add(n, "ports.used", at, c.PortsUsedShare)
		s.rec.add(n, "ports.count", at, float64(c.PortsUsedMax))
		if c.AcceptQueue >= 0 {
			s.rec.add(n, "accept.queue", at, float64(c.AcceptQueue))
		}
	}
	return changed
}

var censusSeries = map[string]string{
	"ESTABLISHED": "sockets.established",
	"CLOSE-WAIT":  "sockets.close_wait",
	"FIN-WAIT-1":  "sockets.fin_wait1",
	"SYN-RECV":    "sockets.syn_recv",
}

func (s *sampler) fail(host string, errs ...error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, err := range errs {
		if err != nil && s.err == nil {
			s.err = fmt.Errorf("host %s: %w", host, err)
		}
	}
}

func (s *sampler) close() {
	for _, p := range s.by {
		if p != nil {
			p.Close()
		}
	}
}
