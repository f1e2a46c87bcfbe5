package trial

import "tcplab/results"

// reconnects tells when a client's kept connections were opened again, and
// whether by a timer that starts with the connection or by a schedule.
func (o *one) reconnects(client string) {
	at := o.rec.get(client, "opened").T
	if len(at) == 0 {
		return
	}
	again := at[1:] // the first one opens, and is no reconnect
	o.put(client, "reconnects.count", float64(len(again)))
	d := results.FindDrift(again)
	if d.Mean > 0 {
		o.put(client, "reconnects.interval", d.Mean)
	}
	switch d.Verdict {
	case results.DriftTimer:
		o.put(client, "reconnects.timer", 1)
	case results.DriftSchedule:
		o.put(client, "reconnects.timer", 0)
	default:
		return
	}
	o.put(client, "reconnects.drift", d.PerDay)
	o.put(client, "reconnects.drift.low", d.PerDayLow)
	o.put(client, "reconnects.drift.high", d.PerDayHigh)
}
