package trial

import (
	"context"

	"tcplab/lab/clock"
	"tcplab/lab/program"
)

// until ends a trial that waits for an event: some time after it, and not
// later than at_most, which the clients keep themselves. The window ends there.
func (o *one) until(ctx context.Context, m *measured) {
	t := o.arm.Trial
	for {
		at, changed := o.when(t.Until)
		if at == 0 {
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return
			}
		}
		end := max(at+int64(t.Plus), m.from)
		if end >= m.to || clock.SleepUntil(ctx, end) != nil {
			return
		}
		o.smp.edge(1, end)
		m.ended.Store(end)
		for _, p := range o.st.role(program.RoleClient) {
			p.Stop()
		}
		return
	}
}

// when is the instant at which an event was reached, 0 if it was not yet, and
// a channel that is closed when another one is.
func (o *one) when(event string) (int64, <-chan struct{}) {
	o.evMu.Lock()
	defer o.evMu.Unlock()
	return o.reached[event], o.news
}

// reach notes an event for the first time.
func (o *one) reach(event string, at int64) {
	o.evMu.Lock()
	defer o.evMu.Unlock()
	if o.reached[event] != 0 {
		return
	}
	o.reached[event] = at
	close(o.news)
	o.news = make(chan struct{})
}

// clientEvent turns what a client sees after the first fault into the events
// that a sheet's `until` may name.
func (o *one) clientEvent(at int64, name string) {
	first, _ := o.firstFault()
	switch {
	case first == 0 || at < first:
	case name == "failing":
		o.reach("detected", at)
	case name == "working":
		if seen, _ := o.when("detected"); seen != 0 {
			o.reach("recovered", at)
		}
	}
}

// firstFault is the instant of the earliest fault so far.
func (o *one) firstFault() (int64, bool) {
	o.evMu.Lock()
	defer o.evMu.Unlock()
	first := int64(0)
	for _, f := range o.arm.Faults {
		if at := o.reached[f.Name]; at != 0 && (first == 0 || at < first) {
			first = at
		}
	}
	return first, first != 0
}
