package trial

import (
	"context"
	"fmt"
	"time"

	"tcplab/lab/clock"
	"tcplab/lab/sheet"
	"tcplab/lab/triage"
	"tcplab/results"
)

// aside is how long before the moment that the sheet names triage takes its
// second look: off the round times at which probes and schedules run, so that
// it is never a chance who comes first.
const aside = 46300 * time.Microsecond

// diagnose has triage look at a host at each moment that the sheet names.
func (o *one) diagnose(ctx context.Context, m *measured) {
	for _, t := range o.exp.Triage {
		if t.Arm != o.plan.Arm || t.NotAsked != "" {
			continue
		}
		d, err := o.examine(ctx, m, t)
		if ctx.Err() != nil {
			return // the trial ended before it
		}
		if err != nil {
			m.reason(fmt.Errorf("triage on %s: %w", t.On, err))
			return
		}
		o.out.Triage = append(o.out.Triage, d)
	}
}

// examine takes two samples of a host and has them judged.
func (o *one) examine(ctx context.Context, m *measured, t sheet.Triage) (results.Diagnosis, error) {
	second := m.t0 + int64(t.At-aside)
	first := max(m.t0, second-int64(triage.Wait))
	d := results.Diagnosis{On: t.On, At: t.At.Seconds(), Findings: []results.Finding{}}
	src := triage.Source{Probe: o.smp.by[t.On]}
	if ct := o.trk.by[t.On]; ct != nil {
		src.Tracker = func() (*triage.Conntrack, error) { return triage.FromTracker(ct) }
	}
	err := clock.SleepUntil(ctx, first)
	if err == nil {
		err = o.st.hosts[t.On].Do(func() error { src.Sysctls = triage.ReadSysctls(); return nil })
	}
	if err != nil {
		return d, err
	}
	a, err := src.Sample(time.Duration(clock.Now()), false)
	if err != nil {
		return d, err
	}
	if err := clock.SleepUntil(ctx, second); err != nil {
		return d, err
	}
	b, err := src.Sample(time.Duration(clock.Now()), true)
	if err != nil {
		return d, err
	}
	for _, f := range triage.Diagnose(a, b) {
		r := results.Finding{Cause: f.Cause, Text: f.Text}
		if len(f.Evidence) > 0 {
			r.Evidence = f.Evidence[0]
		}
		d.Findings = append(d.Findings, r)
	}
	return d, nil
}
