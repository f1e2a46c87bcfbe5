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
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"golang.org/x/term"

	"tcplab/lab"
	"tcplab/lab/clock"
	"tcplab/lab/sheets"
	"tcplab/netns/tree"
)

type drillCmd struct {
	Seed   string   `help:"Which hosts come: a number repeats them." default:"random"`
	Rounds int      `help:"Hosts to look at, one after the other." default:"1"`
	Only   []string `help:"Of these experiments only; a sheet of your own is ./NAME.yaml." placeholder:"NAME,…"`
}

// within is what an on-call engineer should need.
const within = 5 * time.Minute

// round is a line of drills.ndjson.
type round struct {
	At         time.Time `json:"at"`
	Seed       uint64    `json:"seed"`
	Round      int       `json:"round"`
	Experiment string    `json:"experiment"`
	Arm        string    `json:"arm"`
	Host       string    `json:"host"`
	Truth      string    `json:"truth"`
	Answer     string    `json:"answer"`
	Right      bool      `json:"right"`
	Seconds    float64   `json:"seconds"`
}

func (c drillCmd) Run(top *cli) error {
	if c.Rounds < 1 || c.Rounds > 100 {
		return &lab.Error{Code: lab.ExitUsage, Err: fmt.Errorf("--rounds %d: write 1 to 100", c.Rounds)}
	}
	seed := rand.Uint64N(1e6)
	if c.Seed != "random" {
		var err error
		if seed, err = strconv.ParseUint(c.Seed, 10, 64); err != nil {
			return &lab.Error{Code: lab.ExitUsage, Err: fmt.Errorf("--seed %q: write a whole number, or random", c.Seed)}
		}
	}
	if err := widenPath(); err != nil {
		return err
	}
	patients, err := c.patients()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // the second one ends it at once
	d := &drill{top: top, seed: seed, rng: rand.New(rand.NewPCG(seed, 0)), patients: patients, in: newTyped(os.Stdin), tty: term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stdout.Fd()))}
	fmt.Printf("Each round puts you on a host that may be sick. Find out with ss and nstat what it has; a good on-call needs less than %v. (These rounds again: --seed %d)\n", words(within), seed)
	var rounds []round
	for n := 1; n <= c.Rounds; n++ {
		fmt.Printf("\nRound %d of %d: a host is being set up, which takes up to half a minute …\n", n, c.Rounds)
		r, err := d.round(ctx, n)
		if ctx.Err() != nil {
			fmt.Fprintln(os.Stderr, "\ntcplab: stopped; this round does not count")
			return exit(130)
		}
		if errors.Is(err, io.EOF) {
			return &lab.Error{Code: lab.ExitUsage, Err: errors.New("the input ended without a diagnosis: write the commands, a line `answer`, and a line with a number or a cause")}
		}
		if err != nil {
			return err
		}
		rounds = append(rounds, r)
		if err := keepScore(top.Results, r); err != nil {
			return &lab.Error{Code: lab.ExitLacks, Err: err}
		}
	}
	right, soon := 0, 0
	for _, r := range rounds {
		if r.Right {
			right++
			if r.Seconds <= within.Seconds() {
				soon++
			}
		}
	}
	fmt.Printf("\nScore: %d of %d right, %d of them within %v. All rounds so far are in %s.\n", right, len(rounds), soon, words(within), relative(scoreFile(top.Results)))
	return nil
}

// widenPath makes sure of ss, also for a user whose PATH has no sbin.
func widenPath() error {
	os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	if _, err := exec.LookPath("ss"); err != nil {
		return &lab.Error{Code: lab.ExitLacks, Err: errors.New("a drill is done with ss, which is not here: install iproute2 (Debian, Ubuntu, Alpine, Arch, SUSE) or iproute (Fedora, Red Hat)")}
	}
	return nil
}

func (c drillCmd) patients() ([]lab.Patient, error) {
	names := c.Only
	if len(names) == 0 {
		names = append(sheets.All(), sheets.Drills()...)
	}
	var all []lab.Patient
	for _, name := range names {
		file, text, err := sheetOf(name)
		if err != nil {
			return nil, err
		}
		some, err := lab.Patients(file, text)
		if err != nil {
			if len(c.Only) == 0 {
				continue // only a guest kernel can run it
			}
			return nil, &lab.Error{Code: lab.ExitUsage, Err: err}
		}
		all = append(all, some...)
	}
	if len(all) == 0 {
		return nil, &lab.Error{Code: lab.ExitUsage, Err: fmt.Errorf("nothing to look at in %s: their sheets name no truth under `triage` that the host kernel shows within half a minute in the profile quick", strings.Join(names, ", "))}
	}
	return all, nil
}

// drill is what goes on from round to round.
type drill struct {
	top      *cli
	seed     uint64
	rng      *rand.Rand
	patients []lab.Patient
	in       *typed
	tty      bool
}

// round shows one patient. io.EOF is an input that ended without an answer.
func (d *drill) round(ctx context.Context, n int) (round, error) {
	for {
		p := lab.ChoosePatient(d.patients, d.rng)
		r, err := d.show(ctx, n, p)
		var e *lab.Error
		if !errors.As(err, &e) || e.Code != lab.ExitLacks || ctx.Err() != nil {
			return r, err
		}
		// This machine cannot show it: another one, and nobody needs to know.
		var rest []lab.Patient
		for _, q := range d.patients {
			if q.Experiment != p.Experiment {
				rest = append(rest, q)
			}
		}
		if len(rest) == 0 {
			return r, err
		}
		d.patients = rest
	}
}

func (d *drill) show(ctx context.Context, n int, p lab.Patient) (round, error) {
	r := round{Seed: d.seed, Round: n, Experiment: p.Experiment, Arm: p.Arm, Host: p.Host, Truth: p.Truth}
	up, down := context.WithCancel(ctx)
	defer down()
	held, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- p.Keep(up, lab.RunOptions{Seed: d.seed + uint64(n), Results: d.top.Results, Stderr: io.Discard, Version: versionWords()}, func() { close(held) })
	}()
	select {
	case <-held:
	case err := <-ended:
		return r, err
	}
	defer func() { down(); <-ended }()
	tell("You are on it now. `answer` (or leaving the shell) ends your look; the clock runs.\n")
	began := clock.Now()
	r.At = time.Now().UTC().Truncate(time.Second)
	said, err := d.look(ctx, p.Host)
	if err != nil || ctx.Err() != nil {
		return r, err
	}
	answer, err := d.ask(ctx, said)
	if err != nil {
		return r, err
	}
	r.Seconds = clock.Seconds(began, clock.Now())
	r.Answer, r.Right = answer.Name, answer.Name == p.Truth
	d.tellTruth(p, r)
	return r, nil
}

func tell(format string, args ...any) { fmt.Printf(format, args...) }

// look opens a shell on the host. What it gives back is what was said with
// `answer`, if anything.
func (d *drill) look(ctx context.Context, host string) (string, error) {
	dir, err := os.MkdirTemp("", "drill-")
	if err != nil {
		return "", &lab.Error{Code: lab.ExitLacks, Err: err}
	}
	defer os.RemoveAll(dir)
	id := ""
	for _, l := range tree.Running() {
		if l.Owner.PID == os.Getpid() {
			id = l.ID
		}
	}
	if d.tty {
		return d.lookOnTerminal(host, id, dir)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer r.Close()
	said := make(chan string, 1)
	eof := false
	stopped := make(chan struct{})
	go func() {
		defer w.Close()
		for {
			line, err := d.in.line(stopped)
			if err != nil {
				eof = errors.Is(err, io.EOF)
				said <- ""
				return
			}
			if strings.TrimSpace(line) == "exit" {
				said <- "" // the shell would read what follows as well
				return
			}
			if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "answer"); ok && (rest == "" || rest[0] == ' ') {
				said <- strings.TrimSpace(rest)
				return
			}
			io.WriteString(w, line+"\n")
		}
	}()
	_, err = tree.EnterWith(host, []string{"sh", "-c", neutral(dir) + "exec sh"}, id, r, os.Stdout, os.Stderr)
	close(stopped)
	answer := <-said
	if ctx.Err() == nil && eof {
		return "", io.EOF
	}
	return answer, ignoreEnd(err)
}

// neutral is what a shell forgets of where it is.
func neutral(dir string) string {
	return "unset TCPLAB_HOST PROMPT_COMMAND; export NSTAT_HISTORY='" + filepath.Join(dir, "nstat") + "'; "
}

// lookOnTerminal is an interactive shell, bash where there is one.
func (d *drill) lookOnTerminal(host, id, dir string) (string, error) {
	rc, note := filepath.Join(dir, "rc"), filepath.Join(dir, "answer")
	text := "PS1='drill \\$ '\n" + neutral(dir) + "\nanswer() { printf '%s\\n' \"$*\" > '" + note + "'; exit 0; }\n"
	argv := []string{"bash", "--rcfile", rc, "-i"}
	if _, err := exec.LookPath("bash"); err != nil {
		text = strings.Replace(text, `\$`, "$", 1)
		argv = []string{"sh", "-c", "ENV='" + rc + "' exec sh -i"}
	}
	if err := os.WriteFile(rc, []byte(text), 0o600); err != nil {
		return "", &lab.Error{Code: lab.ExitLacks, Err: err}
	}
	_, err := tree.EnterWith(host, argv, id, os.Stdin, os.Stdout, os.Stderr)
	said, _ := os.ReadFile(note)
	return strings.TrimSpace(string(said)), ignoreEnd(err)
}

// ignoreEnd forgives a shell that ended with its host: the answer counts all
// the same.
func ignoreEnd(err error) error {
	if err != nil && strings.Contains(err.Error(), "the lab ended") {
		return nil
	}
	return err
}

// ask takes the diagnosis; first is one that was given already.
func (d *drill) ask(ctx context.Context, first string) (lab.Cause, error) {
	if first == "" {
		w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "\nWhat does this host have?")
		for i, c := range lab.Causes() {
			fmt.Fprintf(w, "%4d\t%s\t%s\n", i+1, c.Name, c.About)
		}
		w.Flush()
	}
	for {
		line := first
		if first == "" {
			fmt.Print("Your diagnosis (a number or a name): ")
			var err error
			if line, err = d.in.line(ctx.Done()); err != nil {
				return lab.Cause{}, err
			}
		}
		first = ""
		c, err := lab.ParseCause(line)
		if err == nil {
			return c, nil
		}
		fmt.Printf("%v\n", err)
	}
}

func (d *drill) tellTruth(p lab.Patient, r round) {
	if !d.tty {
		fmt.Println()
	}
	truth, _ := lab.CauseNamed(p.Truth)
	took := time.Duration(r.Seconds * 1e9)
	late := ""
	if took > within {
		late = ", more than " + words(within)
	}
	if r.Right {
		fmt.Printf("Right: %s, after %s%s.\n", truth.Name, words(took), late)
	} else {
		fmt.Printf("Wrong: it was %s, and you said %s, after %s%s.\n", truth.Name, r.Answer, words(took), late)
	}
	fmt.Printf("It was host %s in arm %s of %s: %s.\nWhat shows it: %s.\n    %s\n", p.Host, p.Arm, p.Experiment, truth.About, truth.Shows, truth.Ask)
}

// words says a time as a person would.
func words(d time.Duration) string {
	if d < 10*time.Second {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	d = d.Round(time.Second)
	if d < time.Minute {
		return fmt.Sprintf("%d s", d/time.Second)
	}
	m, s := d/time.Minute, d%time.Minute/time.Second
	if s == 0 {
		return fmt.Sprintf("%d min", m)
	}
	return fmt.Sprintf("%d min %d s", m, s)
}

// scoreFile has a line for each round of every drill.
func scoreFile(root string) string { return filepath.Join(root, "drills.ndjson") }

func keepScore(root string, r round) error {
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(scoreFile(root), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666)
	if err != nil {
		return fmt.Errorf("the score: %w", err)
	}
	_, err = f.Write(append(line, '\n'))
	return errors.Join(err, f.Close())
}

// typed reads lines that somebody may stop waiting for.
type typed struct {
	lines chan string
	ask   chan struct{}
}

// newTyped reads no further than it is asked to: what comes after is the
// shell's.
func newTyped(from io.Reader) *typed {
	t := &typed{lines: make(chan string), ask: make(chan struct{})}
	go func() {
		defer close(t.lines)
		in := bufio.NewReader(from)
		for range t.ask {
			line, err := in.ReadString('\n')
			if err != nil && line == "" {
				return
			}
			t.lines <- strings.TrimRight(line, "\r\n")
		}
	}()
	return t
}

var errStopped = errors.New("nobody waits for the line any more")

// line is the next one; io.EOF at the end of the input, errStopped once stop
// is closed.
func (t *typed) line(stop <-chan struct{}) (string, error) {
	select {
	case t.ask <- struct{}{}:
	case line, ok := <-t.lines: // one that was asked for earlier
		if !ok {
			return "", io.EOF
		}
		return line, nil
	case <-stop:
		return "", errStopped
	}
	select {
	case line, ok := <-t.lines:
		if !ok {
			return "", io.EOF
		}
		return line, nil
	case <-stop:
		return "", errStopped
	}
}
