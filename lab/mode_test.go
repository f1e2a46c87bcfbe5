package lab

import (
	"errors"
	"strings"
	"testing"

	"tcplab/lab/guest/kernel/kerneltest"
	"tcplab/lab/trial"
	"tcplab/results"
)

const slowSheet = `
experiment: slow
question: How long?
clock: virtual
hosts: {client: {}, server: {}}
server: {kind: echo}
client: {reuse: none}
workload: {kind: requests, rate: 1/s}
trial: {duration: 100s}
profiles: {quick: {trial: {duration: 1s}}}
arms: {as_found: {baseline: true}}
expect: {ok: {that: as_found.requests.failed == 0}}
`

// Where an experiment runs depends on what its sheet asks for, what the user
// asks for, and whether there is a guest kernel.
func TestWhereARunTakesPlace(t *testing.T) {
	host := func(profile string) results.Mode {
		return results.Mode{Profile: profile, Kernel: "host", Clock: "real"}
	}
	guest := func(profile, clock string) results.Mode {
		return results.Mode{Profile: profile, Kernel: "guest", Clock: clock}
	}
	fast := strings.Replace(slowSheet, "clock: virtual\n", "", 1)
	for name, c := range map[string]struct {
		text       string
		opt        RunOptions
		asked, ran results.Mode
		without    results.Mode // what it is without a guest kernel
		code       int          // of the error that it is then instead
	}{
		"a slow sheet":                     {slowSheet, RunOptions{}, guest("full", "virtual"), guest("full", "virtual"), host("quick"), 0},
		"a slow sheet, quick":              {slowSheet, RunOptions{Profile: "quick"}, guest("quick", "virtual"), guest("quick", "virtual"), host("quick"), 0},
		"a slow sheet, full":               {slowSheet, RunOptions{Profile: "full"}, guest("full", "virtual"), guest("full", "virtual"), results.Mode{}, ExitLacks},
		"a slow sheet, on the host":        {slowSheet, RunOptions{Kernel: "host"}, host("quick"), host("quick"), host("quick"), 0},
		"a slow sheet, full, on the host":  {slowSheet, RunOptions{Kernel: "host", Profile: "full"}, host("full"), host("full"), host("full"), 0},
		"a slow sheet, on the real clock":  {slowSheet, RunOptions{Clock: "real"}, host("quick"), host("quick"), host("quick"), 0},
		"a guest's kernel, the real clock": {slowSheet, RunOptions{Kernel: "guest", Clock: "real"}, guest("quick", "real"), guest("quick", "real"), results.Mode{}, ExitLacks},
		"a sheet that is slow in full":     {strings.Replace(slowSheet, "quick: {", "quick: {clock: real, ", 1), RunOptions{}, guest("full", "virtual"), guest("full", "virtual"), host("quick"), 0},
		"another sheet":                    {fast, RunOptions{}, host("quick"), host("quick"), host("quick"), 0},
		"another sheet in a guest":         {fast, RunOptions{Kernel: "guest"}, guest("quick", "virtual"), guest("quick", "virtual"), results.Mode{}, ExitLacks},
		"another sheet, virtually":         {fast, RunOptions{Clock: "virtual"}, guest("quick", "virtual"), guest("quick", "virtual"), results.Mode{}, ExitLacks},
	} {
		c.opt.File, c.opt.Text = "slow.yaml", []byte(c.text)
		t.Run(name, func(t *testing.T) {
			kerneltest.Need(t)
			e, h, err := decode(c.opt)
			if err != nil {
				t.Fatal(err)
			}
			if h.asked != c.asked || h.ran != c.ran || e.Profile != c.ran.Profile || h.fellBack() != "" {
				t.Errorf("asked %+v, ran %+v as %s: %q", h.asked, h.ran, e.Profile, h.fellBack())
			}
		})
		t.Run(name+", without a guest kernel", func(t *testing.T) {
			t.Setenv("TCPLAB_KERNEL", "")
			t.Setenv("XDG_CACHE_HOME", t.TempDir())
			_, h, err := decode(c.opt)
			var e *Error
			switch {
			case c.code != 0 && (!errors.As(err, &e) || e.Code != c.code):
				t.Errorf("error %v", err)
			case c.code != 0 && !strings.Contains(err.Error(), "make kernel"):
				t.Errorf("no advice in %v", err)
			case c.code == 0 && err != nil:
				t.Fatal(err)
			case c.code == 0 && (h.ran != c.without || h.asked != c.asked):
				t.Errorf("asked %+v, ran %+v", h.asked, h.ran)
			case c.code == 0 && (h.fellBack() != "") != (h.asked != h.ran):
				t.Errorf("it says %q", h.fellBack())
			}
		})
	}
}

func TestWhatNoGuestCanDoIsRefused(t *testing.T) {
	container := strings.Replace(slowSheet, "{client: {}, ", "{client: {container: mine}, ", 1)
	for name, opt := range map[string]RunOptions{
		"--kernel=host":   {Text: []byte(slowSheet), Clock: "virtual", Kernel: "host"},
		"container":       {Text: []byte(container), Clock: "virtual"},
		"nothing to hold": {Text: []byte(slowSheet), Kernel: "guest", Hold: &trial.Hold{}},
	} {
		if name == "nothing to hold" {
			kerneltest.Need(t)
		}
		opt.File = "slow.yaml"
		_, _, err := decode(opt)
		var e *Error
		if !errors.As(err, &e) || e.Code != ExitUsage || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestPointsOfASweepAreAllCombinations(t *testing.T) {
	text := slowSheet + "sweep: {wire.loss: [0, 1%], workload.rate: [1/s, 2/s, 4/s]}\n"
	text = strings.Replace(text, "as_found.requests.failed == 0", `"as_found[loss=1%,rate=2/s].requests.failed >= 0"`, 1)
	e, _, err := decode(RunOptions{File: "slow.yaml", Text: []byte(text), Kernel: "host", Sweep: true})
	if err != nil {
		t.Fatal(err)
	}
	p, err := NewPlan(e, 1, 1, true)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, x := range p.Trials {
		names = append(names, x.Arm)
		if len(x.Set) != 2 {
			t.Errorf("%s sets %v", x.Arm, x.Set)
		}
	}
	want := "as_found[loss=0,rate=1/s] as_found[loss=0,rate=2/s] as_found[loss=0,rate=4/s] as_found[loss=1%,rate=1/s] as_found[loss=1%,rate=2/s] as_found[loss=1%,rate=4/s]"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("trials %s", got)
	}
	m, err := e.Metric(e.Expect[0].That.Paths()[0])
	if err != nil {
		t.Fatal(err)
	}
	if got := armAt(e, m); got != "as_found[loss=1%,rate=2/s]" {
		t.Errorf("the claim speaks of %s", got)
	}
}
