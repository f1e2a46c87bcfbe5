package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// The test binary is its own agent: the kind says how it behaves.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "agent" {
		os.Exit(Serve(os.Stdin, os.Stdout, func(role, kind string) (Program, error) {
			if role == "nobody" {
				return nil, errors.New("no such program")
			}
			return &fake{kind: kind}, nil
		}))
	}
	// A race-enabled binary sleeps for a second on its way out, and a busy
	// machine adds to that: no business of these tests.
	grace = time.Minute
	os.Setenv("GORACE", strings.TrimSpace(os.Getenv("GORACE")+" atexit_sleep_ms=0"))
	goleak.VerifyTestMain(m)
}

type fake struct {
	kind   string
	faults []string
}

func (f *fake) Prepare(json.RawMessage) (Ready, error) {
	switch f.kind {
	case "unready":
		select {}
	case "unable":
		return Ready{}, errors.New("the option was not read back")
	case "early-death":
		fmt.Fprintln(os.Stderr, "out of luck")
		os.Exit(7)
	}
	return Ready{Addresses: []string{"10.0.0.1:80"}, Options: map[string]string{"TCP_NODELAY": "on"}}, nil
}

func (f *fake) Run(ctx context.Context, g Go, out *Out) (any, error) {
	switch f.kind {
	case "die":
		fmt.Fprintln(os.Stderr, "something broke")
		os.Exit(3)
	case "garbage":
		fmt.Println("hello, I am not JSON")
	case "deaf":
		select {} // ignores everything, the end of its input too
	case "wrong":
		return nil, errors.New("measured nothing")
	}
	out.Event(g.T0, "begun", nil)
	out.Sample(g.T0+5, map[string]float64{"ok": 2})
	<-ctx.Done()
	return map[string]any{"faults": f.faults}, nil
}

func (f *fake) Do(x Fault) error {
	if x.Do == "impossible" {
		return errors.New("not of my kind")
	}
	f.faults = append(f.faults, x.Name)
	return nil
}

func (f *fake) Close() error { return nil }

func start(t *testing.T, kind string, hear Listener) *Process {
	t.Helper()
	p, err := Start(Job{Role: "client", Kind: kind, Name: "probe", Host: "here"}, []string{"/proc/self/exe", "agent"}, (*exec.Cmd).Start, hear)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// impatient is for agents that do not exit when their input ends.
func impatient(t *testing.T) {
	before := grace
	grace = 50 * time.Millisecond
	t.Cleanup(func() { grace = before })
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestAgentRunsFromJobToResult(t *testing.T) {
	heard := make(chan *Message, 16)
	p := start(t, "good", func(_ *Process, m *Message) { heard <- m })
	if err := p.WaitReady(within(t)); err != nil {
		t.Fatal(err)
	}
	if p.Ready.Options["TCP_NODELAY"] != "on" || p.Ready.Addresses[0] != "10.0.0.1:80" {
		t.Errorf("ready = %+v", p.Ready)
	}
	if err := p.Go(Go{T0: 1, From: 2, To: 3}); err != nil {
		t.Fatal(err)
	}
	if err := p.Do(Fault{Name: "f1", Do: "slow"}); err != nil {
		t.Fatal(err)
	}
	for m := range heard {
		if m.Type == TypeEvent && m.Name == "fault" {
			break
		}
	}
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	var r struct{ Faults []string }
	if err := p.Result(within(t), &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Faults) != 1 || r.Faults[0] != "f1" {
		t.Errorf("result = %+v", r)
	}
	p.Close()
	if p.Err() != nil || p.Exit() != "exit status 0" {
		t.Errorf("err %v, exit %s", p.Err(), p.Exit())
	}
	if u := p.Usage(); u.CPU <= 0 || u.MaxRSS <= 0 {
		t.Errorf("usage = %+v", u)
	}
}

func TestFaultThatAKindDoesNotKnowIsToldAsAnEvent(t *testing.T) {
	refused := make(chan string, 1)
	p := start(t, "good", func(_ *Process, m *Message) {
		if m.Name == "fault-refused" {
			refused <- fmt.Sprint(m.Fields["error"])
		}
	})
	if err := p.WaitReady(within(t)); err != nil {
		t.Fatal(err)
	}
	p.Go(Go{})
	p.Do(Fault{Name: "x", Do: "impossible"})
	if got := <-refused; got != "not of my kind" {
		t.Errorf("refused with %q", got)
	}
}

// Whatever an agent does wrong has to end up as an error that says so, and
// with what it last wrote to stderr.
func TestAgentThatDiesOrPrintsGarbageIsAnError(t *testing.T) {
	for kind, want := range map[string]string{
		"die":     "died unasked: exit status 3; it last said: something broke",
		"garbage": `what is no message: not a message: "hello, I am not JSON"`,
		"wrong":   "measured nothing",
	} {
		t.Run(kind, func(t *testing.T) {
			p := start(t, kind, nil)
			if err := p.WaitReady(within(t)); err != nil {
				t.Fatal(err)
			}
			p.Go(Go{})
			err := p.Result(within(t), &struct{}{})
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v, want %q in it", err, want)
			}
			if p.Err() == nil {
				t.Error("Err is nil: the trial would count")
			}
		})
	}
}

func TestAgentThatCannotGetReadySaysWhy(t *testing.T) {
	for kind, want := range map[string]string{
		"unable":      "the option was not read back",
		"early-death": "exit status 7; it last said: out of luck",
	} {
		p := start(t, kind, nil)
		if err := p.WaitReady(within(t)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q in it", kind, err, want)
		}
	}
}

func TestWaitingForAnAgentThatNeverGetsReadyEnds(t *testing.T) {
	impatient(t)
	p := start(t, "unready", nil)
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errors.New("more than 20s"))
	if err := p.WaitReady(ctx); err == nil || !strings.Contains(err.Error(), "did not get ready in time: more than 20s") {
		t.Errorf("error %v", err)
	}
}

func TestAgentThatIgnoresEverythingIsGoneAfterClose(t *testing.T) {
	p := start(t, "deaf", nil)
	if err := p.WaitReady(within(t)); err != nil {
		t.Fatal(err)
	}
	p.Go(Go{})
	impatient(t)
	p.Close()
	if p.Exit() == "running" {
		t.Error("it runs")
	}
}

func TestJobThatNamesNoProgramIsRefused(t *testing.T) {
	p, err := Start(Job{Role: "nobody", Name: "x"}, []string{"/proc/self/exe", "agent"}, (*exec.Cmd).Start, nil)
	if err == nil {
		t.Cleanup(p.Close)
		err = p.WaitReady(within(t))
	}
	if err == nil || !strings.Contains(err.Error(), "no such program") {
		t.Errorf("error %v", err)
	}
}

func TestEndOfInputBeforeAJobIsNoError(t *testing.T) {
	if code := Serve(strings.NewReader(""), io.Discard, nil); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// Any line is either a message that survives another trip, or garbage.
func FuzzDecoder(f *testing.F) {
	f.Add([]byte(`{"type":"go","t0":12,"from":3,"to":4}` + "\n"))
	f.Add([]byte(`{"type":"sample","at":1,"values":{"ok":2,"latency.p50":0.01}}` + "\n\n"))
	f.Add([]byte(`{"type":"do","fault":{"name":"cut","at":7,"do":"blackhole","args":{"arp":"too"}}}`))
	f.Add([]byte(`{"type":"result","result":{"a":[1,2]},"usage":{"cpu":1.5,"cpu_window":1,"max_rss":9}}`))
	f.Add([]byte("not json\n{\"type\":\"stop\"}\n"))
	f.Add([]byte(`{"type":""}`))
	f.Add([]byte(`[1,2,3]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		d := NewDecoder(bytes.NewReader(data))
		for {
			m, err := d.Decode()
			var g *Garbage
			if errors.As(err, &g) {
				continue
			}
			if err != nil {
				return
			}
			var b bytes.Buffer
			if err := NewEncoder(&b).Encode(m); err != nil {
				t.Fatalf("%+v decodes but does not encode: %v", m, err)
			}
			again, err := NewDecoder(&b).Decode()
			if err != nil {
				t.Fatalf("%s: %v", b.Bytes(), err)
			}
			x, _ := json.Marshal(m)
			y, _ := json.Marshal(again)
			if !bytes.Equal(x, y) {
				t.Fatalf("%s became %s", x, y)
			}
		}
	})
}
