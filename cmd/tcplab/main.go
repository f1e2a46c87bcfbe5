// Command tcplab reproduces how TCP services fail, applies one lever at a
// time, and measures before and after under the same load.
//
// It parses the command line, calls the lab and prints; it decides nothing.
package main

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"

	"github.com/alecthomas/kong"

	"tcplab/lab"
	"tcplab/lab/agent"
	"tcplab/lab/guest"
	"tcplab/lab/guest/kernel/verify"
	"tcplab/lab/program"
	"tcplab/lab/trial"
	"tcplab/netns"
	"tcplab/netns/tree"
)

// version is set when a release is built.
var version = ""

// versionWords is the release, or the commit. It is asked for by commands and
// not at every start: in a guest each process would take another path with a
// build that knows its commit than with one that does not.
func versionWords() string {
	if version != "" {
		return version
	}
	v := "devel"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && len(s.Value) > 12:
			v = s.Value[:12]
		case s.Key == "vcs.modified" && s.Value == "true":
			v += ", changed"
		}
	}
	return v
}

type cli struct {
	Results string `help:"Folder of the records." default:"results/runs" env:"TCPLAB_RESULTS" type:"path" placeholder:"DIR"`

	List       listCmd       `cmd:"" help:"List the experiments."`
	Show       showCmd       `cmd:"" help:"Print an experiment's sheet."`
	Run        runCmd        `cmd:"" help:"Run an experiment: before and after under the same load."`
	Enter      enterCmd      `cmd:"" help:"A shell or a command inside a host of a running or held lab."`
	Drill      drillCmd      `cmd:"" help:"Practice on call: a shell on a host that may be sick, your diagnosis, the time and the truth."`
	Grade      gradeCmd      `cmd:"" help:"Fill the course's grading table from a record."`
	Replay     replayCmd     `cmd:"" help:"Run a record of the virtual clock again: identical, or the first packet or event that differs."`
	Report     reportCmd     `cmd:"" help:"Draw a run's report again, with your notes.md in it."`
	Triage     triageCmd     `cmd:"" help:"Say what is wrong with this host's TCP: causes, evidence, what helps."`
	Kernel     kernelCmd     `cmd:"" help:"The guest kernel: a Linux of its own for each trial, with virtual time."`
	Doctor     doctorCmd     `cmd:"" help:"What this machine can do, what each missing thing costs, and how to get it."`
	Record     recordCmd     `cmd:"" name:"record-trace" help:"Record what a client writes to its server, as a trace for a sheet to replay."`
	Drift      driftCmd      `cmd:"" help:"Tell by the times in a log whether a timer or a schedule is behind what recurs."`
	Prune      pruneCmd      `cmd:"" help:"Remove old runs."`
	Completion completionCmd `cmd:"" help:"Set up completion in bash, zsh or fish."`
	Version    versionCmd    `cmd:"" help:"Print the version."`
}

// register names the entry points of the process tree.
func register() {
	tree.Register(trial.EntryPoint, trial.Work)
	tree.Register(doctorWorker, doctorWork)
	tree.Register(verify.Worker, verify.Work)
}

func main() {
	register()
	guest.Main()
	tree.Main()
	if len(os.Args) > 1 && os.Args[1] == trial.AgentCommand {
		os.Exit(agent.Serve(os.Stdin, os.Stdout, program.New))
	}
	os.Exit(run(os.Args[1:]))
}

// exit is a command's exit code, with nothing more to say.
type exit int

func (e exit) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func run(args []string) int {
	var c cli
	code := -1
	parser, err := kong.New(&c, kong.Name("tcplab"),
		kong.Description("Reproduces how TCP services fail, applies one lever at a time, and measures before and after under the same load, with packets as evidence."),
		kong.UsageOnError(), kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Exit(func(n int) { code = n }))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return lab.ExitUsage
	}
	if done := completes(parser); done {
		return 0
	}
	ctx, err := parser.Parse(args)
	if code >= 0 {
		return code // help was asked for and given
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "tcplab: %v\n", err)
		return lab.ExitUsage
	}
	err = ctx.Run(&c)
	var e exit
	var le *lab.Error
	var fe *netns.ForbiddenError
	switch {
	case err == nil:
		return lab.ExitPass
	case errors.As(err, &e):
		return int(e)
	case errors.As(err, &fe):
		fmt.Fprintf(os.Stderr, "tcplab: %v\nOr run it on a kernel of its own, which needs neither privileges nor namespaces here: add --kernel=guest\n", err)
		return lab.ExitLacks
	case errors.As(err, &le):
		fmt.Fprintf(os.Stderr, "tcplab: %v\n", err)
		return le.Code
	}
	fmt.Fprintf(os.Stderr, "tcplab: %v\n", err)
	return lab.ExitFail
}
