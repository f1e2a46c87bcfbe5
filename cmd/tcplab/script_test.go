package main

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"tcplab/lab/agent"
	"tcplab/lab/program"
	"tcplab/lab/trial"
	"tcplab/netns/tree"
)

var update = flag.Bool("update", false, "write the goldens inside the scripts")

// The test binary is tcplab, its init, its worker and its agents.
func TestMain(m *testing.M) {
	register()
	tree.Main()
	if len(os.Args) > 1 && os.Args[0] == "/proc/self/exe" && os.Args[1] == trial.AgentCommand {
		os.Exit(agent.Serve(os.Stdin, os.Stdout, program.New))
	}
	testscript.Main(tidy{m}, map[string]func(){"tcplab": func() { os.Exit(run(os.Args[1:])) }})
}

// tidy removes what tests share and no test of its own can remove.
type tidy struct{ *testing.M }

func (m tidy) Run() int {
	defer func() { os.RemoveAll(builds.dir) }()
	return m.M.Run()
}

// Each script is one thing that a user does, with what tcplab answers.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: *update,
		Setup: func(e *testscript.Env) error {
			e.Setenv("TCPLAB_RESULTS", filepath.Join(e.WorkDir, "runs"))
			shapes, err := filepath.Abs("../../lab/sheet/testdata/shapes")
			if err != nil {
				return err
			}
			e.Setenv("SHAPES", shapes)
			e.Setenv("TRIAGE", filepath.Join(filepath.Dir(shapes), "../../triage/testdata"))
			e.Setenv("EXAMPLES", filepath.Join(filepath.Dir(shapes), "../../../docs/examples"))
			// Under the race detector every process would sleep for a second at
			// its end.
			e.Setenv("GORACE", "atexit_sleep_ms=0")
			e.Setenv("TMPDIR", filepath.Join(e.WorkDir, ".tmp"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":   exits,
			"triaged": triaged,
		},
	})
}

// exits CODE COMMAND…: the command ends with that exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND [ARG …]")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if err != nil {
		got = exitCode(err)
	}
	if got != args[0] {
		ts.Fatalf("exit code %s, want %s: %v", got, args[0], err)
	}
}

func exitCode(err error) string {
	var x interface{ ExitCode() int }
	if errors.As(err, &x) {
		return strconv.Itoa(x.ExitCode())
	}
	return err.Error()
}
