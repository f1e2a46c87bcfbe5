package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"golang.org/x/term"

	"tcplab/lab"
	"tcplab/lab/sheet"
	"tcplab/lab/sheets"
	"tcplab/lab/trial"
	"tcplab/netns/tree"
	"tcplab/plots"
	"tcplab/results"
)

type listCmd struct{}

func (listCmd) Run() error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	for _, name := range sheets.All() {
		text, _ := sheets.Text(name)
		e, err := sheet.Parse(name+".yaml", text, sheet.Options{Profile: "quick"})
		if err != nil {
			return &lab.Error{Code: lab.ExitUsage, Err: err}
		}
		fmt.Fprintf(w, "%s\t%s\n", name, e.Question)
	}
	return w.Flush()
}

// sheetOf finds an experiment: a file, or one of ours by name.
func sheetOf(what string) (file string, text []byte, err error) {
	if t, ok := sheets.Text(what); ok {
		return what + ".yaml", t, nil
	}
	if t, ok := sheets.Drill(what); ok {
		return what + ".yaml", t, nil
	}
	if strings.ContainsAny(what, "./") {
		t, err := os.ReadFile(what)
		if err != nil {
			return "", nil, &lab.Error{Code: lab.ExitUsage, Err: fmt.Errorf("sheet: %w", err)}
		}
		return what, t, nil
	}
	err = fmt.Errorf("no experiment %q: did you mean %s? There are: %s (a sheet of your own: ./%s.yaml)", what, sheets.Nearest(what), strings.Join(sheets.All(), ", "), what)
	return "", nil, &lab.Error{Code: lab.ExitUsage, Err: err}
}

// tracesOf finds the traces of an experiment where its sheet is: beside the
// file, or with the lab's own.
func tracesOf(what string) func(name string) ([]byte, error) {
	if _, ours := sheets.Text(what); ours {
		return nil
	}
	return sheet.TracesBeside(what)
}

type showCmd struct {
	Name     string   `arg:"" help:"Experiment or sheet file." predictor:"experiment"`
	Resolved bool     `help:"In the general form, with the profile merged."`
	Profile  string   `help:"Profile to resolve: quick (the default) or full." default:"" enum:",quick,full"`
	Set      []string `help:"Merge PATH=VALUE." placeholder:"PATH=VALUE" sep:"none"`
}

func (s showCmd) Run() error {
	file, text, err := sheetOf(s.Name)
	if err != nil {
		return err
	}
	if !s.Resolved && len(s.Set) == 0 {
		_, err := os.Stdout.Write(text)
		return err
	}
	e, err := sheet.Parse(file, text, sheet.Options{Profile: s.Profile, Set: s.Set, Traces: tracesOf(s.Name)})
	if err != nil {
		return &lab.Error{Code: lab.ExitUsage, Err: err}
	}
	out, err := sheet.Resolved(e)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(out)
	return err
}

type runCmd struct {
	Name    string        `arg:"" help:"Experiment or sheet file." predictor:"experiment"`
	Profile string        `help:"quick (small, for CI and a first look) or full (real magnitudes). The default is quick; full for an experiment on the virtual clock where a guest kernel is built." default:"" enum:",quick,full"`
	Kernel  string        `help:"host, or guest: a kernel of its own for each trial, without privileges. The default is what the experiment needs." default:"" enum:",host,guest"`
	Clock   string        `help:"real, or virtual: hours pass in seconds, in a guest. The default is what the experiment asks for." default:"" enum:",real,virtual"`
	Jobs    int           `help:"Guests side by side; 0 is one for each CPU." default:"0" placeholder:"N"`
	DryRun  bool          `help:"Say who is where, what each arm changes, in which order and for how long; start nothing."`
	Set     []string      `help:"Merge PATH=VALUE over every arm; recorded as a lever." placeholder:"PATH=VALUE" sep:"none"`
	Seed    string        `help:"Seed of every random choice: a number, or random." default:"1"`
	Pairs   int           `help:"Trials of each arm, each pair with a seed of its own; 0 is what the sheet says, most often one." default:"0"`
	Stall   time.Duration `help:"End a guest that gives no sign of life for so long in wall time: a program in it spins." default:"1m" placeholder:"TIME"`
	Only    []string      `help:"Run these arms only; claims about others are not asked." placeholder:"ARM,…"`
	Sweep   bool          `help:"Run the sheet's sweep instead of its own values: every arm that a claim about a point speaks of, at every point."`
	Hold    bool          `help:"Keep the hosts of the last trial up at its end, until Enter or Ctrl-C."`
	HoldAt  string        `help:"Keep the hosts of an arm's trial up at a time after go (or at its end, without one)." placeholder:"[ARM@]TIME"`
	JSON    bool          `help:"Print the record's path and the verdict as JSON, and nothing else, on standard output."`
}

func (c runCmd) Run(top *cli) error {
	opt, err := c.options(top)
	if err != nil {
		return err
	}
	plan, err := lab.Decode(opt)
	if err != nil {
		return err
	}
	say := io.Writer(os.Stdout)
	if c.JSON {
		say = io.Discard
	}
	if c.DryRun {
		fmt.Fprint(say, plan.Describe())
		return nil
	}
	for _, w := range plan.Warnings {
		fmt.Fprintf(os.Stderr, "tcplab: %s\n", w.Text)
	}
	for _, w := range plan.Experiment.Warnings {
		fmt.Fprintf(os.Stderr, "tcplab: warning: %s\n", w)
	}
	fmt.Fprintf(say, "%s, profile %s: %d trials, %s\n", plan.Experiment.Name, plan.Experiment.Profile, len(plan.Trials), plan.Takes())

	ctx, stop := interruptible()
	defer stop()
	release := make(chan struct{})
	if opt.Hold != nil {
		go letGo(release)
	}
	opt.Release = release
	opt.Stderr = io.Discard // the agents' own is in the record
	opt.Watch = watcher()
	r, dir, err := lab.Run(ctx, opt)
	if r == nil {
		return err
	}
	dir = relative(dir)
	if c.JSON {
		out, _ := json.Marshal(map[string]string{"record": filepath.Join(dir, "run.json"), "verdict": string(r.Verdict), "because": r.Because, "report": filepath.Join(dir, "report.html")})
		fmt.Println(string(out))
	} else {
		fmt.Printf("\n%s\n%s", plots.Table(r), plots.Summary(r, filepath.Join(dir, "report.html")))
	}
	if err != nil {
		return err
	}
	if code := lab.ExitCode(r.Verdict); code != 0 {
		return exit(code)
	}
	return nil
}

// watcher draws bars on a terminal, and log lines elsewhere.
func watcher() lab.Watcher {
	if !term.IsTerminal(int(os.Stderr.Fd())) {
		return lab.NewWatcher(os.Stderr, 0)
	}
	width, _, err := term.GetSize(int(os.Stderr.Fd()))
	if err != nil || width <= 0 {
		width = 80
	}
	return lab.NewWatcher(os.Stderr, width)
}

func (c runCmd) options(top *cli) (lab.RunOptions, error) {
	file, text, err := sheetOf(c.Name)
	if err != nil {
		return lab.RunOptions{}, err
	}
	opt := lab.RunOptions{File: file, Text: text, Traces: tracesOf(c.Name), Profile: c.Profile, Kernel: c.Kernel, Clock: c.Clock, Jobs: c.Jobs, Stall: c.Stall, Only: c.Only, Sweep: c.Sweep, Set: c.Set, Pairs: c.Pairs, Results: top.Results,
		Command: append([]string{"tcplab"}, os.Args[1:]...), Version: versionWords()}
	if c.Seed == "random" {
		opt.Seed = rand.Uint64()
	} else if opt.Seed, err = strconv.ParseUint(c.Seed, 10, 64); err != nil {
		return opt, &lab.Error{Code: lab.ExitUsage, Err: fmt.Errorf("--seed %q: write a whole number, or random", c.Seed)}
	}
	if c.Pairs < 0 || c.Pairs > 1000 {
		return opt, &lab.Error{Code: lab.ExitUsage, Err: fmt.Errorf("--pairs %d: write 1 to 1000, or 0 for what the sheet says", c.Pairs)}
	}
	if c.Hold {
		opt.Hold = &trial.Hold{}
	}
	if c.HoldAt != "" {
		if opt.Hold, err = parseHold(c.HoldAt); err != nil {
			return opt, &lab.Error{Code: lab.ExitUsage, Err: err}
		}
	}
	return opt, nil
}

// parseHold reads [ARM@]TIME, or ARM.
func parseHold(s string) (*trial.Hold, error) {
	arm, at, found := strings.Cut(s, "@")
	if !found {
		if _, err := time.ParseDuration(s); err != nil {
			return &trial.Hold{Arm: s}, nil
		}
		arm, at = "", s
	}
	d, err := time.ParseDuration(at)
	if err != nil || d <= 0 {
		return nil, fmt.Errorf("--hold-at %q: write a time after go such as 8s, or ARM@8s, or ARM for its end", s)
	}
	return &trial.Hold{Arm: arm, At: d.Seconds()}, nil
}

// letGo waits for a line on standard input.
func letGo(release chan<- struct{}) {
	in := bufio.NewReader(os.Stdin)
	for {
		if _, err := in.ReadString('\n'); err != nil {
			return // no terminal: SIGINT ends the hold
		}
		release <- struct{}{}
	}
}

// interruptible is cancelled by the first SIGINT or SIGTERM; the second ends
// the process at once, and the kernel cleans up.
func interruptible() (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	sig := make(chan os.Signal, 2)
	signal.Notify(sig, os.Interrupt, syscall.SIGTERM)
	go func() {
		if _, ok := <-sig; !ok {
			return
		}
		fmt.Fprintln(os.Stderr, "\ntcplab: stopping, and writing what was measured (once more to exit at once)")
		cancel()
		if _, ok := <-sig; ok {
			os.Exit(130)
		}
	}()
	return ctx, func() { signal.Stop(sig); close(sig); cancel() }
}

// relative shortens a path below the working folder.
func relative(path string) string {
	if wd, err := os.Getwd(); err == nil {
		if r, err := filepath.Rel(wd, path); err == nil && !strings.HasPrefix(r, "..") {
			return r
		}
	}
	return path
}

type enterCmd struct {
	Host    string   `arg:"" help:"Host's name, as in the sheet."`
	Command []string `arg:"" optional:"" passthrough:"" help:"Command, after --; a shell without one."`
	Lab     string   `help:"Which of several running labs, by its number in the message that lists them." placeholder:"ID"`
}

func (e enterCmd) Run() error {
	argv := e.Command
	if len(argv) > 0 && argv[0] == "--" {
		argv = argv[1:]
	}
	code, err := tree.Enter(e.Host, argv, e.Lab)
	if err != nil {
		return &lab.Error{Code: lab.ExitUsage, Err: err}
	}
	if code != 0 {
		return exit(code)
	}
	return nil
}

type reportCmd struct {
	Run_ string `arg:"" name:"run" help:"A run's folder, EXPERIMENT (its latest run), or EXPERIMENT/TIME."`
}

func (c reportCmd) Run(top *cli) error {
	r, dir, err := lab.Redraw(top.Results, c.Run_)
	if err != nil {
		return err
	}
	fmt.Printf("%s\n%s", plots.Table(r), plots.Summary(r, filepath.Join(relative(dir), "report.html")))
	return nil
}

type pruneCmd struct {
	Keep int `help:"Newest runs of each experiment to keep." required:"" placeholder:"N"`
}

func (c pruneCmd) Run(top *cli) error {
	if c.Keep < 0 {
		return &lab.Error{Code: lab.ExitUsage, Err: errors.New("--keep: write 0 or more")}
	}
	gone, err := results.Prune(top.Results, c.Keep)
	for _, g := range gone {
		fmt.Println("removed", relative(g))
	}
	return err
}

type versionCmd struct{}

func (versionCmd) Run() error {
	fmt.Println("tcplab", versionWords())
	return nil
}
