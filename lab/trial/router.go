package trial

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"tcplab/lab/clock"
	"tcplab/lab/program"
	"tcplab/lab/sheet"
	"tcplab/netns"
	"tcplab/netns/conntrack"
	"tcplab/netns/probe"
	"tcplab/results"
)

// route makes routers of the hosts that are one.
func (s *stage) route() error {
	for _, h := range s.arm.Hosts {
		r := h.Router
		if r == nil {
			continue
		}
		err := s.hosts[h.Name].Route(netns.RouterConfig{NAT: r.NAT, Invalid: r.Invalid, Track: r.Track, NoTrack: r.NoTrack, NFT: r.NFT})
		if err != nil {
			return lacks(err)
		}
	}
	return nil
}

// setKernel writes the arm's global settings, which only a kernel of the run's
// own grants, and reads them back.
func (o *one) setKernel() error {
	if len(o.arm.Kernel) == 0 {
		return nil
	}
	if !o.w.guest {
		return lacks(errors.New("`kernel: {sysctl: …}` is the whole machine's: it is set in a guest only (--kernel=guest)"))
	}
	o.out.Kernel = map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(o.arm.Kernel)) {
		path := "/proc/sys/" + strings.ReplaceAll(key, ".", "/")
		want := strings.Join(strings.Fields(o.arm.Kernel[key]), " ")
		if err := os.WriteFile(path, []byte(want+"\n"), 0); err != nil {
			return lacks(fmt.Errorf("kernel setting %s: %w", key, err))
		}
		b, err := os.ReadFile(path)
		got := strings.Join(strings.Fields(string(b)), " ")
		if err != nil || got != want {
			return lacks(fmt.Errorf("kernel setting %s: wanted %q, it is %q: %w", key, want, got, errors.Join(err, netns.ErrSysctlMismatch)))
		}
		o.out.Kernel[key] = got
	}
	return nil
}

// trackers are the connection trackers of an arm's routers, and the kernel's
// log, where it can be read.
type trackers struct {
	by  map[string]*conntrack.Conn
	log *os.File
	// bypassed are the routers that packets go around just now.
	bypassed map[string]bool
}

func openTrackers(o *one) (*trackers, error) {
	t := &trackers{by: map[string]*conntrack.Conn{}, bypassed: map[string]bool{}}
	for _, h := range o.arm.Hosts {
		if h.Router == nil {
			continue
		}
		err := o.st.hosts[h.Name].Do(func() (err error) {
			t.by[h.Name], err = conntrack.Open()
			return err
		})
		if err != nil {
			t.close()
			return nil, lacks(fmt.Errorf("host %s: %w", h.Name, err))
		}
	}
	if len(t.by) > 0 && o.w.guest {
		// From here on: what was logged before is not this trial's. It is the
		// machine's log, so only a guest's says something of the trial.
		if f, err := os.OpenFile("/dev/kmsg", os.O_RDONLY|unix.O_NONBLOCK, 0); err == nil {
			if _, err := f.Seek(0, 2); err == nil {
				t.log = f
			} else {
				f.Close()
			}
		}
	}
	return t, nil
}

func (t *trackers) close() {
	if t == nil {
		return
	}
	for _, c := range t.by {
		if c != nil {
			c.Close()
		}
	}
	if t.log != nil {
		t.log.Close()
		t.log = nil
	}
}

// fullLines counts what the log says of full tables: one record a read.
func (t *trackers) fullLines() int {
	n := 0
	b := make([]byte, 8192)
	for {
		k, err := unix.Read(int(t.log.Fd()), b)
		if errors.Is(err, unix.EPIPE) {
			continue // overwritten before it was read: the next one is there
		}
		if err != nil || k <= 0 {
			return n
		}
		if bytes.Contains(b[:k], []byte("table full")) {
			n++
		}
	}
}

// tracked is one reading of a tracker.
type tracked struct{ entries, invalid, drop, early int64 }

// sample reads a router's tracker into the series. It is false of other hosts.
func (t *trackers) sample(rec *recorder, host string, at int64) (tracked, bool, error) {
	if t == nil || t.by[host] == nil {
		return tracked{}, false, nil
	}
	c := t.by[host]
	n, _, err := c.Size()
	k, err2 := c.Counters()
	if err != nil || err2 != nil {
		return tracked{}, false, errors.Join(err, err2)
	}
	v := tracked{n, k.Invalid, k.Drop, k.EarlyDrop}
	rec.add(host, "conntrack.entries", at, float64(v.entries))
	rec.add(host, "conntrack.invalid", at, float64(v.invalid))
	rec.add(host, "conntrack.drop", at, float64(v.drop))
	rec.add(host, "conntrack.early_drop", at, float64(v.early))
	return v, true, nil
}

// routerMetrics are what the trackers show at the end.
func (o *one) routerMetrics(m *measured) {
	for _, h := range o.arm.Hosts {
		c := o.trk.by[h.Name]
		if c == nil {
			continue
		}
		k, err := c.Counters()
		if err != nil {
			m.reason(fmt.Errorf("host %s: %w", h.Name, err))
			continue
		}
		o.put(h.Name, "conntrack.invalid", float64(k.Invalid))
		o.put(h.Name, "conntrack.drop", float64(k.Drop))
		o.put(h.Name, "conntrack.early_drop", float64(k.EarlyDrop))
		if v, ok := largest(o.rec.get(h.Name, "conntrack.entries"), 0, 1e12); ok {
			o.put(h.Name, "conntrack.entries.max", v)
		}
		s := o.rec.get(h.Name, "conntrack.invalid")
		for i, v := range s.V {
			if v > 0 {
				o.put(h.Name, "conntrack.invalid.time", s.T[i])
				break
			}
		}
		if o.trk.log != nil && len(o.trk.by) == 1 {
			o.put(h.Name, "conntrack.log_lines", float64(o.trk.fullLines()))
		}
	}
}

// applyToRouter does to a Linux router what a fault says.
func (o *one) applyToRouter(f sheet.Fault) error {
	host, c := o.st.hosts[f.On], o.trk.by[f.On]
	if c == nil {
		return fmt.Errorf("host %s is no router", f.On)
	}
	switch f.Do {
	case "forget-flows":
		return c.Flush()
	case "bypass":
		return o.bypass(f, host, c)
	case "end-bypass":
		delete(o.trk.bypassed, f.On)
		return host.EndBypass()
	case "fill":
		return o.fill(f, c)
	case "look":
		return o.look(f, c)
	}
	return fmt.Errorf("%s is nothing that is done to a router", f.Do)
}

func (o *one) bypass(f sheet.Fault, host *netns.Host, c *conntrack.Conn) error {
	if o.trk.bypassed[f.On] {
		return errors.New("packets go around it already")
	}
	var b netns.Bypass
	for _, h := range o.arm.Hosts {
		if h.Name == f.On {
			b.NAT = h.Router.NAT
		}
	}
	if b.NAT != "" {
		es, err := c.Entries(func(e conntrack.Entry) bool { return e.Proto == unix.IPPROTO_TCP && !conntrack.Filled(e) })
		if err != nil {
			return err
		}
		for _, e := range es {
			b.Flows = append(b.Flows, netns.BypassFlow{Client: e.Orig.Src, Server: e.Orig.Dst, Outer: e.Reply.Dst})
		}
		slices.SortFunc(b.Flows, func(x, y netns.BypassFlow) int { return x.Client.Compare(y.Client) })
	}
	if err := host.StartBypass(b); err != nil {
		return err
	}
	o.trk.bypassed[f.On] = true
	return nil
}

// arg is a number that the sheet has decoded.
func arg(f sheet.Fault, name string) (float64, bool) {
	switch v := f.Args[name].(type) {
	case int:
		return float64(v), true
	case float64:
		return v, true
	case time.Duration:
		return v.Seconds(), true
	}
	return 0, false
}

// defaultFillTimeout is Linux's own for established connections, 5 days.
const defaultFillTimeout = 432000 * time.Second

func (o *one) fill(f sheet.Fault, c *conntrack.Conn) error {
	have, most, err := c.Size()
	if err != nil {
		return err
	}
	fill := conntrack.Fill{Entries: int(most - have), Assured: true, Timeout: defaultFillTimeout, To: netip.AddrFrom4([4]byte{10, 77, 255, 1})}
	if n, ok := arg(f, "entries"); ok {
		fill.Entries = int(n)
	}
	if s, ok := arg(f, "timeout"); ok {
		fill.Timeout = time.Duration(s * 1e9)
	}
	if v, ok := f.Args["assured"].(bool); ok {
		fill.Assured = v
	}
	n, err := c.Fill(fill)
	o.putAt(f.On, "conntrack.filled", "", float64(n))
	o.event(clock.Now(), f.On, "filled", map[string]any{"entries": n, "assured": fill.Assured, "before": have, "most": most})
	return err
}

// look notes what the tracker has of the connections that a client has now.
func (o *one) look(f sheet.Fault, c *conntrack.Conn) error {
	name, _ := f.Args["client"].(string)
	var client *sheet.Client
	for i := range o.arm.Clients {
		if x := &o.arm.Clients[i]; x.Name == name || name == "" {
			client = x
		}
	}
	if client == nil {
		return fmt.Errorf("no client %q", name)
	}
	ports, err := o.connected(client)
	if err != nil {
		return err
	}
	es, err := c.Entries(func(e conntrack.Entry) bool { return e.Proto == unix.IPPROTO_TCP && ports[e.Orig.Src] })
	if err != nil {
		return err
	}
	at := clock.Now()
	k, err := c.Counters()
	if err != nil {
		return err
	}
	fields := map[string]any{"invalid": k.Invalid, "connections": len(ports)}
	var lines []string
	left := time.Duration(-1)
	for _, e := range es {
		lines = append(lines, e.String())
		if left < 0 || e.Left < left {
			left = e.Left
		}
	}
	slices.Sort(lines)
	if len(lines) == 0 {
		lines = []string{"no entry"}
	} else {
		o.putAt(f.On, "conntrack.left", f.Name, left.Seconds())
	}
	fields["entries"] = lines
	o.event(at, f.On, "look", fields)
	return nil
}

// connected are the near ends of a client's established connections, from the
// kernel's sockets: those to where the client was sent. Clients of one host
// that share a target are not told apart.
func (o *one) connected(c *sheet.Client) (map[netip.AddrPort]bool, error) {
	to := map[netip.AddrPort]bool{}
	if p := o.st.process(program.RoleClient, c.Name); p != nil {
		if spec, ok := p.Job.Spec.(program.ClientSpec); ok {
			for _, s := range spec.To {
				if a, err := netip.ParseAddrPort(s); err == nil {
					to[a] = true
				}
			}
		}
	}
	ss, err := o.smp.by[c.On].Dump(probe.DumpOptions{States: probe.Established.Mask()})
	if err != nil {
		return nil, err
	}
	own := map[netip.AddrPort]bool{}
	for _, s := range ss {
		if to[s.Dst] {
			own[s.Src] = true
		}
	}
	return own, nil
}

// putAt is put of a metric that is taken at a fault: only the goroutine that
// applies faults calls it, and collecting begins when that has ended.
func (o *one) putAt(owner, metric, fault string, v float64) {
	info, ok := results.LookupMetric(metric)
	if !ok {
		panic("no such metric: " + metric)
	}
	o.out.Metrics[results.Key(owner, metric, fault)] = results.Quantity{Value: v, Unit: info.Unit}
}
