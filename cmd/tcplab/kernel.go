package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"tcplab/lab"
	"tcplab/lab/guest"
	"tcplab/lab/guest/kernel"
	"tcplab/lab/guest/kernel/verify"
)

type kernelCmd struct {
	Build  kernelBuildCmd  `cmd:"" help:"Build the guest kernel into the cache, if it is not there."`
	Path   kernelPathCmd   `cmd:"" help:"Print the path of the guest kernel."`
	Config kernelConfigCmd `cmd:"" help:"Print what the guest kernel is made of, each line with its reason."`
	Verify kernelVerifyCmd `cmd:"" help:"Boot the guest kernel and try what labs need of it."`
}

// kernelError gives an error of the guest kernel its exit code.
func kernelError(err error) error {
	var se *kernel.SourceError
	switch {
	case err == nil:
		return nil
	case kernel.Lacks(err):
		return &lab.Error{Code: lab.ExitLacks, Err: err}
	case errors.As(err, &se):
		return &lab.Error{Code: lab.ExitUsage, Err: err}
	case errors.Is(err, context.Canceled):
		return &lab.Error{Code: lab.ExitFail, Err: errors.New("interrupted; the cache is as it was")}
	}
	return &lab.Error{Code: lab.ExitFail, Err: err}
}

type kernelBuildCmd struct {
	Source string `help:"Source of Linux 6.12, unpacked or as .tar.xz, instead of Debian's package." env:"KERNEL_SRC" type:"path" placeholder:"DIR"`
	Jobs   int    `help:"Compilers at once (default: one more than there are CPUs)." placeholder:"N"`
}

func (c kernelBuildCmd) Run() error {
	if c.Jobs < 0 {
		return &lab.Error{Code: lab.ExitUsage, Err: errors.New("--jobs: write 1 or more")}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	show := newBuildProgress(os.Stderr)
	res, err := kernel.Build(ctx, kernel.Options{Source: c.Source, Jobs: c.Jobs, Progress: show.step})
	show.close(err == nil)
	if err != nil {
		return kernelError(err)
	}
	how := "is built already"
	switch {
	case res.Fresh:
		how = fmt.Sprintf("built in %v", time.Duration(res.Built.Seconds*float64(time.Second)).Round(time.Second))
	case res.Waited:
		how = "was built meanwhile by another tcplab"
	}
	fmt.Printf("guest kernel %s (%s) %s: %s\n", res.Version, res.ID, how, res.Path)
	if own := os.Getenv(kernel.Env); own != "" && own != res.Path {
		fmt.Fprintf(os.Stderr, "tcplab: warning: guests boot %s all the same, since $%s names it\n", own, kernel.Env)
	}
	return nil
}

type kernelPathCmd struct{}

func (kernelPathCmd) Run() error {
	k, err := kernel.Find()
	if err != nil {
		return kernelError(err)
	}
	fmt.Println(k.Path)
	return nil
}

type kernelConfigCmd struct {
	Merged  bool `help:"Only the settings, as Kconfig reads them." xor:"what"`
	Patches bool `help:"The patches, which like Linux are GPL-2.0." xor:"what"`
}

func (c kernelConfigCmd) Run() error {
	switch {
	case c.Merged:
		for _, l := range kernel.Lines() {
			fmt.Printf("%s=%s\n", l.Name, l.Value)
		}
	case c.Patches:
		for _, p := range kernel.Patches() {
			fmt.Println(strings.TrimSpace(p.Text))
		}
	default:
		fragment := ""
		for _, l := range kernel.Lines() {
			if l.Fragment != fragment {
				fragment = l.Fragment
				fmt.Printf("# %s\n", fragment)
			}
			fmt.Printf("%-38s # %s\n", l.Name+"="+l.Value, l.Why)
		}
		fmt.Println("# patches (--patches prints them)")
		for _, p := range kernel.Patches() {
			fmt.Printf("%-38s # %s\n", p.Name, p.Why())
		}
	}
	return nil
}

type kernelVerifyCmd struct{}

func (kernelVerifyCmd) Run() error {
	k, err := kernel.Find()
	if err != nil {
		return kernelError(err)
	}
	dir, err := os.MkdirTemp("", "tcplab-verify-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	checks, err := verify.Run(ctx, k, dir)
	if _, ok := errors.AsType[*guest.NoMemoryError](err); ok {
		return &lab.Error{Code: lab.ExitLacks, Err: err}
	}
	if err != nil {
		return kernelError(err)
	}
	failed := 0
	for _, c := range checks {
		state, said := "yes", c.Said
		switch {
		case c.Failed != "":
			state, said = "no ", c.Failed
			failed++
		case c.Unknown:
			state = "?  "
		}
		fmt.Printf("%s %-35s %s\n", state, c.What, said)
	}
	if failed > 0 {
		return &lab.Error{Code: lab.ExitFail, Err: fmt.Errorf("%d of %d checks failed: %s is no kernel for labs", failed, len(checks), k.Path)}
	}
	return nil
}

// buildProgress is one bar on a terminal, and elsewhere a line for each step
// and for each tenth of the compiling.
type buildProgress struct {
	p    *mpb.Progress
	bar  *mpb.Bar
	log  *slog.Logger
	last string
	part int
}

func newBuildProgress(f *os.File) *buildProgress {
	b := &buildProgress{log: slog.New(slog.NewTextHandler(io.Writer(f), &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			a.Value = slog.StringValue(a.Value.Time().Format("15:04:05"))
		}
		return a
	}}))}
	if term.IsTerminal(int(f.Fd())) {
		b.p = mpb.New(mpb.WithOutput(f), mpb.WithWidth(40), mpb.WithRefreshRate(150*time.Millisecond))
	}
	return b
}

func (b *buildProgress) step(s kernel.Progress) {
	fresh := s.Step != b.last
	if b.p == nil {
		part := 0
		if s.Total > 0 {
			part = 10 * s.Done / s.Total
		}
		if fresh || part != b.part && s.Step == "compiling" {
			args := []any{}
			if s.Total > 0 && s.Done > 0 {
				args = []any{"done", fmt.Sprintf("%d of %d", s.Done, s.Total)}
			}
			b.log.Info(s.Step, args...)
		}
		b.last, b.part = s.Step, part
		return
	}
	if fresh {
		if b.bar != nil {
			b.bar.SetTotal(-1, true)
		}
		b.last = s.Step
		b.bar = b.p.AddBar(int64(max(s.Total, 1)), mpb.BarRemoveOnComplete(),
			mpb.PrependDecorators(decor.Name(s.Step+" ")),
			mpb.AppendDecorators(decor.CountersNoUnit("%d of %d"), decor.Elapsed(decor.ET_STYLE_GO, decor.WCSyncSpace)))
	}
	b.bar.SetTotal(int64(max(s.Total, 1)), false)
	b.bar.SetCurrent(int64(s.Done))
}

func (b *buildProgress) close(ok bool) {
	if b.p == nil {
		return
	}
	if b.bar != nil {
		if ok {
			b.bar.SetTotal(-1, true)
		} else {
			b.bar.Abort(true)
		}
	}
	b.p.Wait()
}
