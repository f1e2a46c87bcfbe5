package lab

import (
	"errors"
	"fmt"
	"slices"

	"tcplab/lab/guest"
	"tcplab/lab/guest/kernel"
	"tcplab/lab/sheet"
	"tcplab/results"
)

// Places of a kernel.
const (
	OnHost  = "host"
	OnGuest = "guest"
)

// how is where a run takes place: what was asked for, what it will be, and
// what that costs.
type how struct {
	asked, ran results.Mode
	kernel     kernel.Kernel // of the guest
	scaled     error         // why the virtual clock that the sheet asks for was not had
}

// decode parses the sheet and settles kernel, clock and profile. A sheet that
// asks for the virtual clock gets it, in full, where a guest kernel is built;
// where none is, it falls back to quick on the real clock, unless the user
// asked for what only a guest has.
func decode(opt RunOptions) (*sheet.Experiment, how, error) {
	var h how
	usage := func(err error) (*sheet.Experiment, how, error) { return nil, h, &Error{ExitUsage, err} }
	if opt.Clock == guest.Virtual && opt.Kernel == OnHost {
		return usage(errors.New("--clock=virtual needs a kernel whose time can be virtual: leave --kernel=host out"))
	}
	first, err := sheet.Parse(opt.File, opt.Text, sheet.Options{Profile: opt.Profile, Set: opt.Set, Traces: opt.Traces})
	if err != nil {
		return usage(err)
	}
	wants := first.Clock == guest.Virtual // the sheet does
	if opt.Profile == "" && slices.Contains(first.Profiles, "full") && !wants {
		// It may do so for its real magnitudes only.
		full, err := sheet.Parse(opt.File, opt.Text, sheet.Options{Profile: "full", Set: opt.Set, Traces: opt.Traces})
		if err != nil {
			return usage(err)
		}
		wants = full.Clock == guest.Virtual
	}
	explicit := opt.Kernel == OnGuest || opt.Clock == guest.Virtual
	h.asked = results.Mode{Profile: first.Profile, Kernel: OnHost, Clock: guest.Real}
	if explicit || wants && opt.Kernel != OnHost && opt.Clock != guest.Real {
		h.asked.Kernel, h.asked.Clock = OnGuest, guest.Virtual
	}
	if opt.Clock == guest.Real {
		h.asked.Clock = guest.Real
	}
	if wants && opt.Profile == "" && h.asked.Clock == guest.Virtual && len(first.Profiles) > 1 {
		h.asked.Profile = "full"
	}
	if h.asked.Kernel == OnGuest {
		if name := containerOf(first); name != "" {
			return usage(fmt.Errorf("host %s is a container, which runs on this machine's kernel and its clock: leave --kernel=guest and --clock=virtual out, or make it a namespace", name))
		}
	}
	h.ran = h.asked
	if h.asked.Kernel == OnGuest {
		if h.kernel, err = kernel.Find(); err != nil {
			if explicit || opt.Profile == "full" {
				return nil, h, &Error{ExitLacks, err}
			}
			h.scaled = err
			h.ran = results.Mode{Profile: "quick", Kernel: OnHost, Clock: guest.Real}
		}
	}
	e, err := sheet.Parse(opt.File, opt.Text, sheet.Options{Profile: h.ran.Profile, Set: opt.Set, Kernel: h.ran.Kernel, Clock: h.ran.Clock, Only: opt.Only, Sweep: opt.Sweep, Traces: opt.Traces})
	if err != nil {
		return usage(err)
	}
	if h.ran.Kernel == OnGuest && opt.Hold != nil {
		return usage(errors.New("a guest's hosts cannot be entered, so there is nothing to hold: add --kernel=host"))
	}
	return e, h, nil
}

// fellBack says what a run is instead of what its sheet asks for.
func (h how) fellBack() string {
	if h.scaled == nil {
		return ""
	}
	return fmt.Sprintf("this experiment asks for the virtual clock and its real magnitudes; %v. Until then it runs here scaled down (profile quick) on the real clock", h.scaled)
}

// containerOf is a host of the sheet that is a container, or "".
func containerOf(e *sheet.Experiment) string {
	for _, a := range e.Arms {
		for _, h := range a.Hosts {
			if h.Container != "" {
				return h.Name
			}
		}
	}
	return ""
}
