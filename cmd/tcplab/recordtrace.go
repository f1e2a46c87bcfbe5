package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"tcplab/lab"
	"tcplab/lab/recorder"
	"tcplab/workloads"
)

type recordCmd struct {
	Listen string        `help:"Loopback address to listen on, to which the client connects instead." default:"127.0.0.1:0" placeholder:"ADDRESS:PORT"`
	To     string        `help:"The server." required:"" placeholder:"HOST:PORT"`
	Out    string        `help:"File to write the trace to." required:"" type:"path" placeholder:"FILE"`
	For    time.Duration `help:"How long to record; until Ctrl-C without it." placeholder:"TIME"`
}

// Help is what stands below the usage.
func (recordCmd) Help() string {
	return `It stands between a client and its server, forwards what they say, and notes how many bytes the client wrote when, for a sheet to replay (workload: {kind: writes, trace: FILE}). Nothing else is kept.

An exchange begins with the client's first bytes, ends where the answer begins, and the next begins with the client's next bytes. Exchanges without an answer are left out.

TCP keeps no marks between writes. The recorder acknowledges each piece at once when it has read it, and not before, so that a client under Nagle's algorithm sends its writes one by one. What it cannot see: writes that the client's kernel had merged already, because they were made within a loopback round trip and a wake-up (some 50 µs) of each other while one before them was unacknowledged; or within a wake-up, where the client sets TCP_NODELAY. A time is when the recorder read the piece, not when write() was called. It listens on loopback only.`
}

func (c recordCmd) Run() error {
	usage := func(err error) error { return &lab.Error{Code: lab.ExitUsage, Err: err} }
	if c.For < 0 {
		return usage(errors.New("--for: write a time such as 30s"))
	}
	if _, err := os.Lstat(c.Out); !errors.Is(err, fs.ErrNotExist) {
		return usage(fmt.Errorf("--out: %s is there already: name another file, or remove it", relative(c.Out)))
	}
	// Found out before, not after half an hour of recording.
	tmp, err := os.CreateTemp(filepath.Dir(c.Out), ".trace-")
	if err != nil {
		return usage(fmt.Errorf("--out: %w", err))
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	r, err := recorder.Listen(c.Listen, c.To)
	if err != nil {
		return usage(err)
	}
	fmt.Printf("recording what comes to %s and goes on to %s; Ctrl-C ends it\n", r.Address(), c.To)
	ctx, stop := interruptible()
	defer stop()
	if c.For > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.For)
		defer cancel()
	}
	got, err := r.Run(ctx)
	if err != nil {
		return err
	}
	for _, why := range got.Failed {
		fmt.Fprintf(os.Stderr, "tcplab: %s\n", why)
	}
	if len(got.Trace.Exchanges) == 0 {
		return fmt.Errorf("nothing to write: %d connections, %d exchanges without an answer, and none with one", got.Connections, got.Unanswered)
	}
	if _, err := tmp.WriteString(recordedText(c.To, got)); err != nil {
		return err
	}
	if err := tmp.Chmod(0o644); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), c.Out); err != nil {
		return err
	}
	fmt.Printf("%s: %s\n", relative(c.Out), strings.Join(recordedWords(got), "; "))
	return nil
}

// recordedText is the trace with a comment on how it was made.
func recordedText(to string, got *recorder.Recording) string {
	first, rest, _ := strings.Cut(got.Trace.String(), "\n")
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n# recorded by tcplab record-trace --to %s\n", first, to)
	for _, w := range recordedWords(got) {
		fmt.Fprintf(&b, "# %s\n", w)
	}
	b.WriteString("# START CONNECTION PARTS ANSWER\n" + rest)
	return b.String()
}

// recordedWords say what was recorded and what was not.
func recordedWords(got *recorder.Recording) []string {
	t := &got.Trace
	several := 0
	for _, x := range t.Exchanges {
		if len(x.Parts) > 1 {
			several++
		}
	}
	out := []string{fmt.Sprintf("%d exchanges, %d of several writes, over %d connections in %v", len(t.Exchanges), several, t.Connections(), t.Length)}
	for _, n := range []struct {
		n    int64
		what string
	}{
		{int64(got.Unanswered), "without an answer, left out"},
		{int64(got.LeftOut), fmt.Sprintf("more than a trace can hold (%d KiB, %d connections, %d writes of %d MiB), left out", workloads.MaxTraceBytes>>10, workloads.MaxConnections, workloads.MaxParts, workloads.MaxPart>>20)},
		{int64(got.Raised), fmt.Sprintf("raised to the %d bytes of a request or the %d of an answer that the lab's protocol needs", workloads.MinRequest, workloads.MinAnswer)},
		{got.Unasked, "bytes of the server before anybody had asked, left out"},
	} {
		if n.n > 0 {
			out = append(out, fmt.Sprintf("%d %s", n.n, n.what))
		}
	}
	return out
}
