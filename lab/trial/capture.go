package trial

import (
	"fmt"
	"path/filepath"
	"time"

	"tcplab/netns"
	"tcplab/netns/capture"
	"tcplab/results"
)

// snaplen keeps headers only: Ethernet, IPv4 with options, TCP with options,
// and a few bytes of payload that name the protocol.
const snaplen = 144

// repairPackets are kept of a connection of which a loss and its repair are to
// be shown: at 100 Mbit/s they are a sixth of a second, four round trips of
// 40 ms.
const repairPackets = 1500

// capturing records the packets of one trial at each host's end of each link.
type capturing struct {
	rec *capture.Recorder
}

func openCapture(o *one) (*capturing, error) {
	names := map[string]string{}
	for host, addrs := range o.st.top.addrs {
		for _, a := range addrs {
			names[a.String()] = host
		}
	}
	known := map[string]capture.Timers{}
	for _, h := range o.arm.Hosts {
		t := o.hostTimers(h.Name)
		known[h.Name] = capture.Timers{KeepaliveProbes: t.probes, RTOMax: time.Duration(t.rtoMax * float64(time.Second))}
	}
	cfg := capture.Config{Names: names, Timers: known, Changed: o.smp.seen}
	if flooder(o.arm) != "" {
		cfg.Spoofed = netns.SpoofedSources
	}
	for _, ev := range o.exp.Evidence {
		if ev.Capture == o.arm.Name && ev.NotAsked == "" && ev.Show == "fast retransmit" {
			cfg.MaxPackets = repairPackets
		}
	}
	c := &capturing{rec: capture.New(cfg)}
	for _, la := range o.st.top.links {
		for _, host := range []string{la.link.A, la.link.B} {
			var tap *capture.Tap
			err := o.st.hosts[host].Do(func() (err error) {
				tap, err = capture.Open(la.link.Name, snaplen)
				return err
			})
			if err != nil {
				c.close()
				return nil, fmt.Errorf("host %s: %w", host, err)
			}
			c.rec.Add(host, la.link.Name, tap)
		}
	}
	if err := c.rec.Start(); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// window tells when to measure, and from when on connections are kept because
// evidence is of that moment.
func (c *capturing) window(o *one, s span) {
	c.rec.Window(s.from, s.to)
	for _, ev := range o.exp.Evidence {
		if d, err := time.ParseDuration(ev.At); err == nil && ev.Capture == o.arm.Name && ev.NotAsked == "" {
			c.rec.Watch(s.t0 + int64(d))
		}
	}
}

// mark keeps the packets around an instant, and from then on what becomes of
// the connections that live through it: for hours, if need be.
func (c *capturing) mark(at int64, text string) {
	c.rec.Mark(at, text)
	c.rec.Watch(at)
}

// nearby is what is kept around a moment that the wire tells of.
const nearby = 40 * time.Millisecond

// near keeps the few packets around an instant.
func (c *capturing) near(at int64, text string) { c.rec.MarkNear(at, nearby, text) }

// finish writes the file and draws the ladders that the sheet asks for.
func (c *capturing) finish(o *one, m *measured) {
	sum, err := c.rec.Stop(filepath.Join(o.dir, results.CaptureFile))
	if err != nil {
		o.warn("capture", err.Error())
		return
	}
	sum.File = results.CaptureFile
	o.out.Capture = &sum
	if sum.Dropped > 0 {
		o.warn("capture", fmt.Sprintf("the kernel dropped %d of %d packets before they could be kept: ladders and comments may miss some, counts do not (they are the wire's)", sum.Dropped, sum.Seen))
	}
	o.chains(c.rec.Chains(m.t0))
	for _, ev := range o.exp.Evidence {
		if ev.Capture != o.arm.Name || ev.NotAsked != "" {
			continue
		}
		l, err := c.rec.Ladder(ev.Show, o.about(ev))
		if err != nil {
			o.warn("evidence "+ev.Name, fmt.Sprintf("no packets to show for %q: %v", ev.Show, err))
			continue
		}
		if ev.Title != "" {
			l.Title = ev.Title
		}
		if o.out.Ladders == nil {
			o.out.Ladders = map[string]results.Ladder{}
		}
		o.out.Ladders[ev.Name] = l
	}
}

func (c *capturing) close() {
	if c != nil {
		c.rec.Close()
	}
}
