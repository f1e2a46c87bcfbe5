package lab

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"tcplab/lab/guest"
	"tcplab/lab/sheet"
	"tcplab/lab/trial"
	"tcplab/results"
)

// A Patient is a host that a drill may show: an arm of an experiment, at the
// moment that its sheet's triage names, with the truth about it.
type Patient struct {
	File       string // the sheet's name, for errors
	Text       []byte // as its profile quick has it
	Experiment string
	Arm, Host  string
	At         time.Duration // after go
	Truth      string        // a cause, or "nothing"
}

const (
	// DrillEnds bounds how long a patient is kept with its load.
	DrillEnds = 15 * time.Minute
	// drillWaits is the longest that a reader is made to wait for a patient.
	drillWaits = 30 * time.Second
)

// Patients are those of a sheet that the host kernel can show soon enough, in
// the profile quick. A sheet that only a guest kernel can run has none.
func Patients(file string, text []byte) ([]Patient, error) {
	opt := sheet.Options{Profile: "quick", Kernel: OnHost, Clock: guest.Real}
	e, err := sheet.Parse(file, text, opt)
	if err != nil {
		return nil, err
	}
	if len(e.NotBuilt()) > 0 || slices.Contains(e.Needs, "guest") {
		return nil, nil
	}
	quick, err := sheet.Resolved(e)
	if err != nil {
		return nil, err
	}
	var all []Patient
	for _, t := range e.Triage {
		a, ok := armOf(e, t.Arm)
		if t.NotAsked != "" || !ok || len(a.Kernel) > 0 || slices.Contains(a.Needs, "guest") || t.At <= 0 || t.At > drillWaits {
			continue
		}
		if _, known := CauseNamed(t.Finds); known && lasts(a, t) {
			all = append(all, Patient{File: file, Text: quick, Experiment: e.Name, Arm: t.Arm, Host: t.On, At: t.At, Truth: t.Finds})
		}
	}
	return all, nil
}

// ends are levers that bound an illness: what such an arm shows at its sheet's
// moment is over soon after.
var ends = regexp.MustCompile(`TCP_USER_TIMEOUT|KEEP|keepalive|heartbeat|deadline|tcp_retries2|tcp_rto_max`)

// lasts says whether an arm shows for minutes what it shows at one moment: no
// fault is still to come, and nothing ends the illness. What a firewall drops
// falls silent soon.
func lasts(a *sheet.Arm, t sheet.Triage) bool {
	if slices.ContainsFunc(a.Faults, func(f sheet.Fault) bool { return f.At >= t.At && f.Do != "look" }) {
		return false
	}
	for _, c := range a.Clients {
		if c.Kind == "flood" || c.Kind == "incarnations" { // over within seconds, and bounded
			return false
		}
	}
	return t.Finds == Healthy || !slices.ContainsFunc(a.Levers, func(l sheet.Lever) bool {
		return ends.MatchString(l.Path) || strings.Contains(l.Path, "router") && strings.Contains(l.To, "drop")
	})
}

// ChoosePatient draws one: a healthy one in a quarter of the cases, else every
// cause is as likely as any other, however many sheets have it.
func ChoosePatient(all []Patient, rng *rand.Rand) Patient {
	by := map[string][]Patient{}
	var sick []string
	for _, p := range all {
		if by[p.Truth] == nil && p.Truth != Healthy {
			sick = append(sick, p.Truth)
		}
		by[p.Truth] = append(by[p.Truth], p)
	}
	slices.Sort(sick)
	truth := Healthy
	if draw := rng.Float64(); len(sick) > 0 && (by[Healthy] == nil || draw >= 0.25) {
		truth = sick[rng.IntN(len(sick))]
	}
	return by[truth][rng.IntN(len(by[truth]))]
}

// Lasting is what to set so that the load and the illness of an arm go on
// while somebody looks: a trial of a fixed length, and connections that the
// kernel gives up no sooner than Linux does by itself.
func (p Patient) Lasting() ([]string, error) {
	e, err := sheet.Parse(p.File, p.Text, sheet.Options{Profile: "quick", Kernel: OnHost, Clock: guest.Real})
	if err != nil {
		return nil, err
	}
	a, ok := armOf(e, p.Arm)
	if !ok {
		return nil, fmt.Errorf("no arm %q in %s", p.Arm, e.Name)
	}
	var set []string
	// Over every arm: the reasons that others give for their own must still be
	// about something.
	if slices.ContainsFunc(e.Arms, func(a sheet.Arm) bool { return a.Trial.Until != "" }) {
		set = append(set, "trial.until=null", "trial.at_most=null")
	}
	set = append(set, fmt.Sprintf("trial.duration=%ds", int(DrillEnds.Seconds())))
	for _, h := range a.Hosts {
		if _, shortened := h.Sysctl["net.ipv4.tcp_retries2"]; shortened {
			set = append(set, "hosts."+h.Name+".sysctl[net.ipv4.tcp_retries2]=15")
		}
	}
	return set, nil
}

// Keep sets the patient up, calls held once it is at its moment, and keeps it
// there with its load going on until ctx ends. It leaves no record. held must
// not block.
func (p Patient) Keep(ctx context.Context, opt RunOptions, held func()) error {
	set, err := p.Lasting()
	if err != nil {
		return &Error{ExitUsage, err}
	}
	opt.File, opt.Text, opt.Profile, opt.Kernel, opt.Clock = p.File, p.Text, "quick", OnHost, guest.Real
	opt.Only, opt.Set, opt.Hold = []string{p.Arm}, set, &trial.Hold{Arm: p.Arm, At: p.At.Seconds()}
	opt.Watch = &heldWatcher{held: held}
	plan, err := Decode(opt)
	if err != nil {
		return err
	}
	now := time.Now()
	folder, err := results.NewFolder(opt.Results, drillFolder, now)
	if err != nil {
		return &Error{ExitLacks, err}
	}
	defer func() {
		folder.Discard()
		os.Remove(filepath.Dir(folder.Path)) // if no other drill goes on
	}()
	r, err := newRecord(plan, opt, now)
	if err != nil {
		return err
	}
	err = execute(ctx, plan, opt, folder.Path, r)
	var f *trial.Failure
	switch {
	case errors.As(err, &f):
		return &Error{f.Code, f.Err}
	case ctx.Err() != nil:
		return nil
	case err != nil:
		return &Error{ExitLacks, err}
	}
	var why []string
	for _, a := range r.Arms {
		if a.Unsupported != "" {
			return &Error{ExitLacks, fmt.Errorf("this machine lacks %s", a.Unsupported)}
		}
		for _, t := range a.Trials {
			why = append(why, t.Validity.Reasons...)
		}
	}
	return &Error{ExitInvalid, fmt.Errorf("the host went away: %s", strings.Join(why, "; "))}
}

// drillFolder is where a patient's files are meanwhile: a name that tells
// nothing. What a killed drill leaves there the next one removes.
const drillFolder = "drill"

// heldWatcher hears of the moment alone: progress would tell which experiment
// it is.
type heldWatcher struct {
	Quiet
	held func()
}

func (w *heldWatcher) News(n trial.News) {
	if n.Type == "held" && w.held != nil {
		w.held()
		w.held = nil
	}
}
