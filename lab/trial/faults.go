package trial

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"tcplab/lab/agent"
	"tcplab/lab/clock"
	"tcplab/lab/program"
	"tcplab/lab/sheet"
)

// ahead is how much earlier than its instant a link's fault is sent: a wire
// decides by each frame's stamp, so that an early command costs nothing and a
// late one would.
const ahead = 20 * time.Millisecond

// act is one thing to do at one time: a fault, or its end.
type act struct {
	at    time.Duration
	fault sheet.Fault
	ends  bool
}

// undo is what ends a fault that lasts, where the lab has to say so. A wire
// knows by itself when a fault is over.
var undo = map[string]string{"bypass": "end-bypass", "freeze": "continue", "slow": "resume", "stall": "resume", "stop-accepting": "resume", "stop-closing": "resume"}

// timetable puts faults and their ends in order of time; at one time the order
// is the sheet's.
func timetable(fs []sheet.Fault) []act {
	var all []act
	for _, f := range fs {
		all = append(all, act{at: f.At, fault: f})
		if f.For > 0 && undo[f.Do] != "" && f.OnKind != "link" {
			end := f
			end.Do, end.Args = undo[f.Do], nil
			all = append(all, act{at: f.At + f.For, fault: end, ends: true})
		}
	}
	slices.SortStableFunc(all, func(a, b act) int { return cmp.Compare(a.at, b.at) })
	return all
}

// faults applies the sheet's faults at their times.
func (o *one) faults(ctx context.Context, m *measured) {
	for _, a := range timetable(o.arm.Faults) {
		f, at := a.fault, m.t0+int64(a.at)
		send := at
		if f.OnKind == "link" {
			send -= int64(ahead)
		}
		if clock.SleepUntil(ctx, send) != nil {
			return
		}
		what := "fault " + f.Name
		if a.ends {
			what = "end of fault " + f.Name
		}
		if err := o.apply(ctx, f, at, m); err != nil {
			m.reason(fmt.Errorf("%s: %w", what, err))
			continue
		}
		if f.Do != "hold" { // whose wire says when it does something
			o.cap.mark(at, what+": "+f.Do)
		}
		o.event(at, f.On, what, map[string]any{"do": f.Do})
		if !a.ends {
			o.reach(f.Name, at)
		}
	}
}

func (o *one) refuse(err error) {
	o.evMu.Lock()
	defer o.evMu.Unlock()
	o.refused = append(o.refused, err)
}

func (o *one) apply(ctx context.Context, f sheet.Fault, at int64, m *measured) error {
	if f.OnKind == "host" {
		return o.applyToHost(f, at)
	}
	if o.trk.by[f.On] != nil && f.OnKind == "middlebox" {
		return o.applyToRouter(f)
	}
	for _, p := range o.st.procs {
		if p.Job.Name == f.On && plays(p.Job.Role, f.OnKind) && !o.st.killed[p] {
			return o.applyTo(ctx, p, f, at, m)
		}
	}
	return fmt.Errorf("%s %s does not run", f.OnKind, f.On)
}

func plays(role, kind string) bool {
	return role == kind || role == program.RoleWire && kind == "link"
}

func (o *one) applyTo(ctx context.Context, p *agent.Process, f sheet.Fault, at int64, m *measured) error {
	switch f.Do {
	case "kill":
		o.st.killed[p] = true
		return p.End()
	case "freeze":
		return p.Signal(syscall.SIGSTOP)
	case "continue":
		return p.Signal(syscall.SIGCONT)
	case "restart":
		return o.restart(ctx, p, m)
	}
	return p.Do(agentFault(f, at))
}

func agentFault(f sheet.Fault, at int64) agent.Fault {
	af := agent.Fault{Name: f.Name, At: at, Do: f.Do, Towards: f.Towards, Args: map[string]any{}}
	for k, v := range f.Args {
		af.Args[k] = v
	}
	if f.For > 0 {
		af.Args["for"] = int64(f.For)
	}
	if len(f.Match) > 0 {
		af.Args["match"] = f.Match
	}
	return af
}

// restart kills a server and starts it again with the same job. A client's
// counts would be lost with it.
func (o *one) restart(ctx context.Context, p *agent.Process, m *measured) error {
	if p.Job.Role != program.RoleServer {
		return errors.New("only a server can be restarted: a client's counts would be lost")
	}
	o.st.killed[p] = true
	if err := p.End(); err != nil {
		return err
	}
	p.Close()
	again, err := o.st.start(p.Job, o.st.hosts[p.Job.Host])
	if err != nil {
		return err
	}
	ready, cancel := context.WithTimeoutCause(ctx, readyWithin, fmt.Errorf("more than %v", readyWithin))
	defer cancel()
	if err := again.WaitReady(ready); err != nil {
		return err
	}
	return again.Go(agent.Go{T0: m.t0, From: m.from, To: m.to})
}

// applyToHost does to a host what a fault says: to all that runs there, or to
// its sysctls.
func (o *one) applyToHost(f sheet.Fault, at int64) error {
	switch f.Do {
	case "set":
		set, _ := f.Args["set"].(map[string]any)
		keys, _ := set["sysctl"].(map[string]any)
		want := map[string]string{}
		for k, v := range keys {
			want[k] = fmt.Sprint(v)
		}
		if len(want) == 0 {
			return errors.New("set on a host takes set: {sysctl: {KEY: VALUE}}")
		}
		_, err := o.st.hosts[f.On].SetSysctls(want)
		return err
	case "kill", "freeze", "continue":
	default:
		return fmt.Errorf("%s is nothing that is done to a host", f.Do)
	}
	if f.Do == "kill" {
		// Power off: nothing more comes from it, not even an RST.
		for _, la := range o.st.top.links {
			if la.link.A != f.On && la.link.B != f.On {
				continue
			}
			if w := o.st.process(program.RoleWire, la.link.Name); w != nil {
				if err := w.Do(agent.Fault{Name: f.Name, At: at, Do: "blackhole", Args: map[string]any{}}); err != nil {
					return err
				}
			}
		}
	}
	for _, p := range o.st.procs {
		if p.Job.Host != f.On || o.st.killed[p] {
			continue
		}
		var err error
		switch f.Do {
		case "kill":
			o.st.killed[p] = true
			err = p.End()
		case "freeze":
			err = p.Signal(syscall.SIGSTOP)
		case "continue":
			err = p.Signal(syscall.SIGCONT)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// thaw lets frozen agents go on, so that they can say what they measured.
func (o *one) thaw() {
	for _, f := range o.arm.Faults {
		if f.Do != "freeze" {
			continue
		}
		for _, p := range o.st.procs {
			if !o.st.killed[p] && p.Exit() == "running" {
				p.Signal(syscall.SIGCONT)
			}
		}
		return
	}
}
