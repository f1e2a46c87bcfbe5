package wire

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write the goldens anew")

// dump writes a message as hexadecimal bytes, one part a line, each with what
// it is.
func dump(m []byte) string {
	var s strings.Builder
	line := func(b []byte, format string, a ...any) {
		fmt.Fprintf(&s, "%-48s # %s\n", hex.EncodeToString(b), fmt.Sprintf(format, a...))
	}
	le := binary.LittleEndian
	line(m[:4], "nlmsghdr: length %d", le.Uint32(m))
	line(m[4:8], "type %d, flags %#x", le.Uint16(m[4:]), le.Uint16(m[6:]))
	line(m[8:16], "sequence, port")
	t := m[16:]
	line(t[:8], "tcmsg: family, interface %d", le.Uint32(t[4:]))
	line(t[8:16], "handle %x, parent %x", le.Uint32(t[8:]), le.Uint32(t[12:]))
	line(t[16:20], "info")
	var kind string
	var walk func(b []byte, depth string, names map[int]string, nested map[int]map[int]string)
	walk = func(b []byte, depth string, names map[int]string, nested map[int]map[int]string) {
		for len(b) >= 4 {
			n, typ := int(le.Uint16(b)), int(le.Uint16(b[2:]))&^unix.NLA_F_NESTED
			line(b[:4], "%s%s, %d bytes", depth, names[typ], n)
			data := b[4:n]
			switch sub, ok := nested[typ]; {
			case ok:
				walk(data, depth+"  ", sub, nil)
			case names[typ] == "TCA_OPTIONS" && kind == "netem":
				q := words(data, 6)
				for i, f := range []string{"latency", "limit", "loss", "gap", "duplicate", "jitter"} {
					line(data[4*i:4*i+4], "%s  qopt.%s %d", depth, f, q[i])
				}
				walk(data[24:], depth+"  ", netemNames, map[int]map[int]string{netemLoss: {netemLossGE: "NETEM_LOSS_GE p, r, h, k1"}})
			case names[typ] == "TCA_OPTIONS":
				walk(data, depth+"  ", map[int]string{tbfParms: "TCA_TBF_PARMS", tbfRate64: "TCA_TBF_RATE64", tbfBurst: "TCA_TBF_BURST"}, nil)
			default:
				if names[typ] == "TCA_KIND" {
					kind = strings.TrimRight(string(data), "\x00")
				}
				for len(data) > 16 && len(data) <= 64 {
					line(data[:16], "")
					data = data[16:]
				}
				if len(data) > 64 {
					line(data[:16], "… %d samples …", len(data)/2)
					data = data[len(data)-16:]
				}
				line(data, "")
			}
			if pad := b[n:min((n+3)&^3, len(b))]; len(pad) > 0 {
				line(pad, "padding")
			}
			b = b[min((n+3)&^3, len(b)):]
		}
	}
	walk(t[20:], "", map[int]string{nl.TCA_KIND: "TCA_KIND", nl.TCA_OPTIONS: "TCA_OPTIONS"}, nil)
	return regexp.MustCompile(` +# \n| +\n`).ReplaceAllString(s.String(), "\n")
}

var netemNames = map[int]string{
	netemDelayDist: "TCA_NETEM_DELAY_DIST", netemReorder: "TCA_NETEM_REORDER", netemCorrupt: "TCA_NETEM_CORRUPT",
	netemLoss: "TCA_NETEM_LOSS", netemRate: "TCA_NETEM_RATE", netemRate64: "TCA_NETEM_RATE64",
	netemLatency64: "TCA_NETEM_LATENCY64", netemJitter64: "TCA_NETEM_JITTER64", netemSeed: "TCA_NETEM_PRNG_SEED",
}

func TestNetemMessagesByteByByte(t *testing.T) {
	for name, d := range map[string]Direction{
		"cable":     {},
		"delay":     {Delay: 10 * time.Millisecond},
		"long":      {Delay: time.Hour},
		"loss":      {Loss: Loss{P: 0.01}},
		"gemodel":   {Loss: Loss{GilbertElliott: GilbertElliott{P: 0.01, R: 0.2, H: 0.1, K: 0.99}}},
		"gilbert":   {Loss: Loss{GilbertElliott: GilbertElliott{P: 0.01, R: 0.2}}},
		"jitter":    {Delay: 10 * time.Millisecond, Jitter: 2 * time.Millisecond, Reorder: Reorder{ByJitter: true}},
		"normal":    {Delay: 10 * time.Millisecond, Jitter: 2 * time.Millisecond, JitterDist: Normal, Reorder: Reorder{ByJitter: true}},
		"impaired":  {Delay: 10 * time.Millisecond, Reorder: Reorder{P: 0.05}, Duplicate: 0.03, Corrupt: 0.02},
		"rate":      {Delay: 10 * time.Millisecond, Rate: 100_000_000},
		"fast":      {Rate: 100_000_000_000},
		"queue":     {Delay: 10 * time.Millisecond, Rate: 100_000_000, Queue: Queue{Bytes: 100_000}},
		"fastqueue": {Rate: 100_000_000_000, Queue: Queue{Time: time.Millisecond}},
	} {
		t.Run(name, func(t *testing.T) {
			c := Symmetric(d)
			c.Fates = Unpaired
			if err := c.ValidateNetem(); err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			for i, q := range netemQdiscs(d, 0x1122334455667788) {
				if i > 0 {
					got.WriteString("\n")
				}
				r := q.request(7)
				r.Seq, r.Pid = 0, 0
				got.WriteString(dump(r.Serialize()))
			}
			file := filepath.Join("testdata", "netem", name+".hex")
			if *update {
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != string(want) {
				t.Errorf("the message differs from %s (-update writes it anew):\n%s", file, got.String())
			}
		})
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What tc of iproute2 6.1 sends in TCA_OPTIONS, recorded with strace.
func TestOptionsMeanWhatTheCommandLineToolMeans(t *testing.T) {
	for _, v := range []struct {
		command, tc string
		d           Direction
	}{
		{"netem limit 1048576 delay 10ms",
			"5a62020000001000 0000000000000000 0000000000000000",
			Direction{Delay: 10 * time.Millisecond}},
		{"netem limit 1048576 delay 10ms 2ms reorder 5% loss gemodel 1% 20% 90% 1% duplicate 3% corrupt 2%",
			"5a62020000001000 0000000001000000 7b14ae07127a0000" +
				"0c000300 cdcccc0c00000000 0c000400 52b81e0500000000" +
				"18000580 14000200 295c8f02 33333333 99999919 295c8f02",
			Direction{Delay: 10 * time.Millisecond, Jitter: 2 * time.Millisecond, Reorder: Reorder{P: 0.05, ByJitter: true},
				Loss:      Loss{GilbertElliott: GilbertElliott{P: 0.01, R: 0.2, H: 0.1, K: 0.99}},
				Duplicate: 0.03, Corrupt: 0.02}},
		{"netem limit 1048576 delay 10ms rate 100gbit",
			"5a62020000001000 0000000000000000 0000000000000000" +
				"0c000800 00dd0ee902000000 14000600 ffffffff 00000000 00000000 00000000",
			Direction{Delay: 10 * time.Millisecond, Rate: 100_000_000_000}},
		{"tbf rate 100mbit burst 3125 limit 100000",
			"28000100 03010000ffff0000 20bcbe00 000000000000000000000000 a0860100 420f0000 00000000" +
				"08000600 350c0000",
			Direction{Rate: 100_000_000, Queue: Queue{Bytes: 100_000}}},
	} {
		qs := netemQdiscs(v.d, 1)
		if err := qs[len(qs)-1].differs(unhex(t, v.tc)); err != nil {
			t.Errorf("%s: %v", v.command, err)
		}
	}
}

func TestWhatTheKernelDidNotSetIsAnError(t *testing.T) {
	d := Direction{Delay: 10 * time.Millisecond, Loss: Loss{P: 0.01}}
	asked := netemQdiscs(d, 1)[0]
	if err := asked.differs(asked.options); err != nil {
		t.Errorf("the same options: %v", err)
	}
	d.Loss.P = 0
	err := asked.differs(netemQdiscs(d, 1)[0].options)
	if err == nil || !strings.Contains(err.Error(), "asked for loss 42949673, the kernel set 0") {
		t.Errorf("a loss that did not apply: %v", err)
	}
	d.Loss.P = 0.01
	d.Rate = 1e6
	if err := asked.differs(netemQdiscs(d, 1)[0].options); err == nil {
		t.Error("a rate that nobody asked for is accepted")
	}
	for _, b := range []string{"", "00", strings.Repeat("00", 24) + "ffff0a00", strings.Repeat("00", 24) + "08000a0000000000"} {
		if err := asked.differs(unhex(t, b)); err == nil {
			t.Errorf("options %q are accepted", b)
		}
	}
}

func TestNetemSaysWhatItCannotDo(t *testing.T) {
	for _, v := range []struct {
		c    Config
		want string
	}{
		{Symmetric(Direction{Loss: Loss{P: 0.1}}), "netem draws by itself"},
		{Config{Fates: ByTime, TowardsA: Direction{Corrupt: 0.1}}, "towards a: netem draws by itself"},
		{Config{Fates: Unpaired, TowardsB: Direction{Delay: 1, Jitter: 1}}, "netem's jitter reorders"},
		{Config{Fates: Unpaired, TowardsB: Direction{Jitter: time.Minute, Reorder: Reorder{ByJitter: true}}}, "netem's jitter ends at 2.1"},
		{Config{Fates: Unpaired, TowardsB: Direction{Reorder: Reorder{P: 0.1, Extra: 1}}}, "cannot hold a frame back"},
		{Symmetric(Direction{MTU: 1400}), "netem has no MTU"},
		{Symmetric(Direction{Blackhole: PassARP}), "cannot tell ARP"},
		{Config{Faults: []Fault{{Do: DoPartition}}}, "cannot decide a fault"},
		{Config{Fates: "by-luck"}, "by-luck"},
	} {
		err := v.c.ValidateNetem()
		if err == nil || !strings.Contains(err.Error(), v.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%+v: %v, want %q", v.c, err, v.want)
		}
		if _, err := OpenNetem("lo", "lo", v.c); err == nil {
			t.Errorf("netem was made of %+v", v.c)
		}
	}
}

func TestAutoIsNetemForDelayAndRateOnly(t *testing.T) {
	delay := Direction{Delay: time.Millisecond, Rate: 1e8, Queue: Queue{Bytes: 1e5}}
	lossy := Direction{Loss: Loss{P: 0.1}}
	for _, v := range []struct {
		c    Config
		have bool
		want Kind
	}{
		{Config{}, true, InKernel},
		{Config{}, false, Userspace},
		{Symmetric(delay), true, InKernel},
		{Symmetric(delay), false, Userspace},
		{Config{TowardsA: delay, TowardsB: lossy}, true, Userspace},
		{Config{Fates: Unpaired, TowardsB: lossy}, true, Userspace},
		{Config{TowardsB: Direction{MTU: 1000}}, true, Userspace},
		{Config{Faults: []Fault{{Do: DoPartition}}}, true, Userspace},
	} {
		if got := Choose(v.c, v.have); got != v.want {
			t.Errorf("%+v where netem is %v: %s, want %s", v.c, v.have, got, v.want)
		}
	}
}

// inMiddle runs f in the middle of a link that has no wire yet.
func inMiddle(t *testing.T, f func(r *rig) error) *rig {
	t.Helper()
	r := newHosts(t)
	if err := r.link.Middle.Do(func() error { return f(r) }); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAKernelWithoutNetemSaysSoAndIsLeftClean(t *testing.T) {
	c := Config{Fates: Unpaired, TowardsB: Direction{Delay: time.Millisecond, Loss: Loss{P: 0.5}}}
	inMiddle(t, func(r *rig) error {
		probe := ProbeNetem()
		n, err := OpenNetem(r.link.PortA, r.link.PortB, c)
		if !errors.Is(probe, ErrUnsupported) {
			// The kernel has it: the probe and the wire agree.
			if probe != nil || err != nil {
				return errors.Join(probe, err)
			}
			err = n.Close()
		} else {
			var u *UnsupportedError
			if !errors.As(err, &u) || !errors.Is(err, ErrUnsupported) || u.What != "sch_netem" || n != nil {
				t.Errorf("OpenNetem: %v", err)
			}
			if strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "userspace") {
				t.Errorf("the error does not say what to do: %q", err)
			}
			err = nil
		}
		links, lerr := netlink.LinkList()
		if err = errors.Join(err, lerr); err != nil {
			return err
		}
		for _, l := range links {
			if l.Type() == "bridge" {
				t.Errorf("bridge %s is left behind", l.Attrs().Name)
			}
			qs, err := netlink.QdiscList(l)
			if err != nil {
				return err
			}
			for _, q := range qs {
				if q.Type() != "noqueue" {
					t.Errorf("%s is left on %s", q.Type(), l.Attrs().Name)
				}
			}
		}
		return nil
	})
}

// The machinery around netem, with the tbf that every kernel has.
func TestAQdiscIsInstalledReadBackAndCounted(t *testing.T) {
	d := Direction{Rate: 20_000_000, Queue: Queue{Bytes: 30_000}}
	q := netemQdiscs(d, 1)[1]
	q.parent, q.handle = rootParent, rootHandle
	var n *Netem
	r := inMiddle(t, func(r *rig) error {
		n = bareNetem(t, r)
		n.qdiscs[dirB] = []qdisc{q}
		if _, err := n.install(n.ports[1], n.qdiscs[dirB]); err != nil {
			return err
		}
		a, _ := netlink.LinkByName(r.link.PortA)
		b, _ := netlink.LinkByName(r.link.PortB)
		return n.join([2]netlink.Link{a, b})
	})
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	r.serve(t, addrB+":7", echo)
	c := r.dial(t, addrB+":7")
	exchange(t, c, 20, 100)
	k := n.Counters()
	if len(k.Errors) != 1 { // the other direction has no qdisc
		t.Errorf("errors %q", k.Errors)
	}
	b := k.TowardsB
	if b.In == nil || b.Out == nil || *b.Out < 22 || *b.In != *b.Out || *b.BytesOut < 20*100 || *b.Queued != 0 {
		t.Errorf("towards b: %s", toJSON(t, b))
	}
	if b.FirstSYNs != nil || b.Duplicated != nil || strings.Contains(toJSON(t, b), "first_syns") {
		t.Errorf("what nobody counts is there: %s", toJSON(t, b))
	}
	// A rule that did not apply is noticed.
	other := netemQdiscs(Direction{Rate: 30_000_000, Queue: Queue{Bytes: 30_000}}, 1)[1]
	set, err := n.read(n.ports[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := q.differs(set[rootHandle].options); err != nil {
		t.Error(err)
	}
	if err := other.differs(set[rootHandle].options); err == nil {
		t.Error("another rate than the one set is not noticed")
	}
}

// bareNetem has a socket in the current namespace and r's ports.
func bareNetem(t *testing.T, r *rig) *Netem {
	conn, err := openRtnl()
	if err != nil {
		t.Fatal(err)
	}
	n := &Netem{rtnl: conn}
	for i, name := range []string{r.link.PortA, r.link.PortB} {
		l, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		n.ports[i] = l.Attrs().Index
	}
	return n
}

func TestDropsAreTheQueuesOrTheLosss(t *testing.T) {
	two := netemQdiscs(Direction{Rate: 1e6, Queue: Queue{Bytes: 3000}}, 1)
	var d DirectionCounters
	countDirection(two, linkStats{100, 1000}, installed{packets: 80, drops: 15, queued: 5}, installed{drops: 10}, &d)
	if *d.In != 100 || *d.Out != 80 || *d.Queued != 5 || *d.QueueDropped != 10 || *d.Lost != 5 {
		t.Errorf("%s", toJSON(t, d))
	}
	d = DirectionCounters{}
	countDirection(two[:1], linkStats{100, 1000}, installed{packets: 80, drops: 15}, installed{}, &d)
	if *d.Lost != 15 || d.QueueDropped != nil {
		t.Errorf("%s", toJSON(t, d))
	}
}

func toJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
