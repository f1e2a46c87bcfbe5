package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"tcplab/lab"
	"tcplab/lab/clock"
	"tcplab/lab/triage"
	"tcplab/netns"
	"tcplab/plots"
	"tcplab/results"
)

type triageCmd struct {
	JSON     bool          `help:"Print the findings as JSON."`
	Watch    bool          `help:"Look again and again, until Ctrl-C."`
	Every    time.Duration `help:"How often --watch looks." default:"10s" placeholder:"TIME"`
	AllNetns bool          `help:"Look at every network namespace that has a process: pods and containers too. Needs root."`
	Script   bool          `help:"Print a shell script that collects what --from reads, for a machine where nothing can be installed."`
	From     string        `help:"Diagnose what that script, or ss -tanoi alone, printed elsewhere; - is standard input." placeholder:"FILE"`
	Accuracy bool          `help:"Draw what triage found in records against what was true: RUNS, or all in the folder of the records."`
	Markdown bool          `help:"With --accuracy: as Markdown, with every look."`
	Runs     []string      `arg:"" optional:"" help:"With --accuracy: runs, experiments, or folders of records." placeholder:"RUNS"`
}

func (c triageCmd) Help() string {
	return `Looks at this host's TCP twice, a second apart, changes nothing and needs no root. Each finding comes with the command that shows the same, what helps in the order to try it, and what to check afterwards.

Causes that it knows: ` + strings.Join(results.CauseNames()[:len(results.Causes())], ", ") + `.

Exit codes: 0 nothing found, 1 findings, 2 usage or input that is none, 5 the kernel does not let it look (with --all-netns: into one of the namespaces, and the others have nothing).`
}

// exitFindings is triage's exit code where something was found.
const exitFindings = 1

func (c triageCmd) Run(top *cli) error {
	modes := 0
	for _, on := range []bool{c.Watch, c.Script, c.From != "", c.Accuracy} {
		if on {
			modes++
		}
	}
	if modes > 1 || c.AllNetns && (c.Script || c.From != "" || c.Accuracy) {
		return &lab.Error{Code: lab.ExitUsage, Err: errors.New("--watch, --script, --from and --accuracy are different things: give one of them; --all-netns goes with --watch only")}
	}
	if len(c.Runs) > 0 && !c.Accuracy {
		return &lab.Error{Code: lab.ExitUsage, Err: fmt.Errorf("%s: runs are for --accuracy; to diagnose a file, give --from %s", c.Runs[0], c.Runs[0])}
	}
	if c.Markdown && !c.Accuracy {
		return &lab.Error{Code: lab.ExitUsage, Err: errors.New("--markdown is for --accuracy")}
	}
	if c.Every < 2*triage.Wait {
		return &lab.Error{Code: lab.ExitUsage, Err: fmt.Errorf("--every %v is too short: a look takes %v; give %v or more", c.Every, triage.Wait, 2*triage.Wait)}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch {
	case c.Script:
		_, err := io.WriteString(os.Stdout, triage.Script())
		return err
	case c.From != "":
		return c.from()
	case c.Accuracy:
		return c.accuracy(top.Results)
	}
	places, err := c.places()
	if err != nil {
		return err
	}
	defer func() {
		for _, p := range places {
			p.close()
		}
	}()
	for {
		begun := clock.Now()
		looks, err := look(ctx, places)
		if err != nil {
			return err
		}
		if err := c.print(looks); err != nil {
			return err
		}
		if !c.Watch {
			return found(looks)
		}
		if clock.SleepUntil(ctx, begun+int64(c.Every)) != nil {
			return found(looks)
		}
	}
}

// place is a network namespace that is looked at.
type place struct {
	namespace *triage.Namespace // nil: the caller's, unnamed
	source    *triage.Source
	err       error // why it cannot be looked at
}

func (p *place) close() {
	if p.source != nil {
		p.source.Close()
	}
}

// lookResult is what triage prints of a host.
type lookResult struct {
	Namespace *triage.Namespace `json:"namespace,omitempty"`
	Host      string            `json:"host,omitempty"` // that the input came from
	Sockets   int               `json:"sockets"`
	Samples   int               `json:"samples"`
	Seconds   float64           `json:"seconds,omitempty"` // between the samples
	Findings  []triage.Finding  `json:"findings"`
	Unjudged  []triage.Gap      `json:"unjudged"`
	Unnamed   int               `json:"unnamed,omitempty"` // sockets in question whose process could not be named
	Why       string            `json:"unnamed_why,omitempty"`
	Error     string            `json:"error,omitempty"`
}

func (c triageCmd) places() ([]*place, error) {
	if !c.AllNetns {
		s, err := triage.Open()
		if err != nil {
			return nil, refused(err)
		}
		return []*place{{source: s}}, nil
	}
	list, unseen, err := triage.Namespaces("/proc")
	if err == nil && unseen > 0 {
		if os.Geteuid() != 0 {
			err = fmt.Errorf("--all-netns looks into the namespaces of other users' processes, and %d of them may not be seen: run it as root (sudo tcplab triage --all-netns), or without --all-netns for this namespace alone", unseen)
		} else {
			fmt.Fprintf(os.Stderr, "tcplab: processes whose namespace may not be seen, though this is root (CAP_SYS_PTRACE is missing): %d, left out\n", unseen)
		}
	}
	if err != nil {
		return nil, &lab.Error{Code: lab.ExitLacks, Err: err}
	}
	var out []*place
	for i := range list {
		p := &place{namespace: &list[i]}
		h, err := netns.FromPID(list[i].Link, list[i].PID)
		if errors.Is(err, fs.ErrNotExist) {
			continue // its last process has ended meanwhile
		}
		if err == nil {
			err = h.Do(func() (err error) {
				p.source, err = triage.Open()
				return err
			})
			h.Close()
		}
		switch {
		case err == nil:
		case os.Geteuid() != 0:
			for _, p := range out {
				p.close()
			}
			return nil, &lab.Error{Code: lab.ExitLacks, Err: fmt.Errorf("%s: %w; --all-netns enters namespaces, which takes root: sudo tcplab triage --all-netns", list[i], err)}
		default:
			p.err = err
		}
		out = append(out, p)
	}
	return out, nil
}

// refused is a machine that does not let triage look.
func refused(err error) error {
	return &lab.Error{Code: lab.ExitLacks, Err: fmt.Errorf("%w; a kernel without CONFIG_INET_DIAG or a seccomp profile forbids it: take what ss (or /proc/net/tcp) says with tcplab triage --script, and give it to tcplab triage --from", err)}
}

// look takes both samples of every place, a second apart.
func look(ctx context.Context, places []*place) ([]lookResult, error) {
	first := make([]triage.Sample, len(places))
	begun := clock.Now()
	for i, p := range places {
		if p.err != nil {
			continue
		}
		var err error
		if first[i], err = p.source.Sample(time.Duration(clock.Now()), false); err != nil {
			return nil, refused(err)
		}
	}
	if err := clock.SleepUntil(ctx, begun+int64(triage.Wait)); err != nil {
		return nil, exit(exitInterrupted)
	}
	out := make([]lookResult, len(places))
	for i, p := range places {
		if p.err != nil {
			out[i] = lookResult{Namespace: p.namespace, Error: p.err.Error(), Findings: []triage.Finding{}, Unjudged: []triage.Gap{}}
			continue
		}
		b, err := p.source.Sample(time.Duration(clock.Now()), true)
		if err != nil {
			return nil, refused(err)
		}
		b.Named("/proc")
		out[i] = judged(first[i], b)
		out[i].Namespace = p.namespace
	}
	return out, nil
}

// exitInterrupted is a shell's code for a command that SIGINT ended.
const exitInterrupted = 130

func judged(a, b triage.Sample) lookResult {
	r := lookResult{Sockets: len(b.Sockets), Samples: 1, Findings: triage.Diagnose(a, b), Unjudged: triage.Unjudged(a, b), Unnamed: b.Unnamed, Why: b.UnnamedWhy}
	if r.Findings == nil {
		r.Findings = []triage.Finding{}
	}
	if r.Unjudged == nil {
		r.Unjudged = []triage.Gap{}
	}
	if a.Taken() {
		r.Samples, r.Seconds = 2, (b.At - a.At).Seconds()
	}
	return r
}

// found is the exit code: what could not be looked at is not healthy.
func found(looks []lookResult) error {
	unseen := 0
	for _, l := range looks {
		if len(l.Findings) > 0 {
			return exit(exitFindings)
		}
		if l.Error != "" {
			unseen++
		}
	}
	if unseen > 0 {
		return &lab.Error{Code: lab.ExitLacks, Err: fmt.Errorf("%d of %d namespaces could not be looked at", unseen, len(looks))}
	}
	return nil
}

// mostInput bounds what --from reads: 50,000 sockets with their details are
// some 25 MB.
const mostInput = 256 << 20

func (c triageCmd) from() error {
	in := io.Reader(os.Stdin)
	name := "standard input"
	if c.From != "-" {
		f, err := os.Open(c.From)
		if err != nil {
			return &lab.Error{Code: lab.ExitUsage, Err: err}
		}
		defer f.Close()
		in, name = f, c.From
	}
	text, err := io.ReadAll(io.LimitReader(in, mostInput+1))
	if err == nil && len(text) > mostInput {
		err = fmt.Errorf("more than %d MiB", mostInput>>20)
	}
	if err != nil {
		return &lab.Error{Code: lab.ExitUsage, Err: fmt.Errorf("%s: %w", name, err)}
	}
	r, err := triage.From(string(text))
	if err != nil {
		return &lab.Error{Code: lab.ExitUsage, Err: fmt.Errorf("%s: %w", name, err)}
	}
	l := judged(r.A, r.B)
	if l.Host = r.Host; r.Kernel != "" {
		l.Host += " (Linux " + r.Kernel + ")"
	}
	looks := []lookResult{l}
	if err := c.print(looks); err != nil {
		return err
	}
	return found(looks)
}

func (c triageCmd) print(looks []lookResult) error {
	if c.JSON {
		enc := json.NewEncoder(os.Stdout)
		if !c.Watch {
			enc.SetIndent("", "  ")
		}
		enc.SetEscapeHTML(false)
		if c.AllNetns {
			return enc.Encode(struct {
				Hosts []lookResult `json:"hosts"`
			}{looks})
		}
		return enc.Encode(looks[0])
	}
	var b strings.Builder
	if c.Watch {
		fmt.Fprintf(&b, "-- %s\n", time.Now().Format("15:04:05"))
	}
	for i, l := range looks {
		if i > 0 {
			b.WriteString("\n")
		}
		if l.Namespace != nil {
			fmt.Fprintf(&b, "== %s\n", l.Namespace)
		} else if l.Host != "" {
			fmt.Fprintf(&b, "== %s\n", l.Host)
		}
		l.write(&b)
	}
	_, err := io.WriteString(os.Stdout, b.String())
	return err
}

func (l lookResult) write(b *strings.Builder) {
	if l.Error != "" {
		fmt.Fprintf(b, "not looked at: %s\n", l.Error)
		return
	}
	looked := "looked at once"
	if l.Samples == 2 {
		looked = fmt.Sprintf("looked at twice, %.1f s apart", l.Seconds)
	}
	switch n := len(l.Findings); n {
	case 0:
		fmt.Fprintf(b, "nothing found: %s, %s\n", sockets(l.Sockets), looked)
	default:
		for i, f := range l.Findings {
			if i > 0 {
				b.WriteString("\n")
			}
			fmt.Fprintf(b, "%s (%s)\n  %s.\n", f.Cause, f.Severity, f.Text)
			for j, e := range f.Evidence {
				fmt.Fprintf(b, "  %s%s\n", head("see", j), e)
			}
			for j, x := range f.Fix {
				fmt.Fprintf(b, "  %s%d. %s\n", head("fix", j), j+1, x)
			}
			for j, x := range f.Check {
				fmt.Fprintf(b, "  %s%s\n", head("check", j), x)
			}
		}
		fmt.Fprintf(b, "\n%s, %s\n", sockets(l.Sockets), looked)
	}
	if l.Unnamed > 0 && len(l.Findings) > 0 {
		fmt.Fprintf(b, "not named: the processes of %s in question: %s\n", sockets(l.Unnamed), l.Why)
	}
	for _, g := range gaps(l.Unjudged) {
		b.WriteString(g + "\n")
	}
}

// sockets says how many.
func sockets(n int) string {
	if n == 1 {
		return "1 socket"
	}
	return fmt.Sprintf("%d sockets", n)
}

// gaps writes what could not be judged, causes with one reason on one line.
func gaps(list []triage.Gap) []string {
	var out, reasons []string
	by := map[string][]string{}
	for _, g := range list {
		what := "not judged"
		if g.Partly {
			what = "judged in part"
		}
		k := what + "\x00" + g.Why
		if by[k] == nil {
			reasons = append(reasons, k)
		}
		by[k] = append(by[k], g.Cause)
	}
	for _, k := range reasons {
		what, why, _ := strings.Cut(k, "\x00")
		out = append(out, fmt.Sprintf("%s: %s: %s", what, strings.Join(by[k], ", "), why))
	}
	return out
}

func head(word string, line int) string {
	if line > 0 {
		word = ""
	}
	return fmt.Sprintf("%-7s", word)
}

// accuracy draws the confusion table of records.
func (c triageCmd) accuracy(root string) error {
	usage := func(err error) error { return &lab.Error{Code: lab.ExitUsage, Err: err} }
	what := c.Runs
	if len(what) == 0 {
		what = []string{root}
	}
	var runs []*results.Run
	for _, w := range what {
		dirs, err := results.All(w)
		if err != nil {
			return usage(err)
		}
		if len(dirs) == 0 {
			dir, err := results.Find(root, w)
			if err != nil {
				return usage(err)
			}
			dirs = []string{dir}
		}
		for _, dir := range dirs {
			r, err := results.Load(dir)
			if err != nil {
				return usage(err)
			}
			runs = append(runs, r)
		}
	}
	table := plots.Confuse(runs)
	if table.Trials == 0 {
		return usage(fmt.Errorf("triage ran in none of these %d records: their sheets name no moment for it, or they are older", len(runs)))
	}
	text := table.Text()
	if c.Markdown {
		text = table.Markdown()
	}
	if _, err := io.WriteString(os.Stdout, text); err != nil {
		return err
	}
	if table.Wrong() > 0 {
		return exit(exitFindings)
	}
	return nil
}
