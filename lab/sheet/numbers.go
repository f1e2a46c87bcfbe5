package sheet

import (
	"math"
	"strconv"
	"strings"
	"time"

	"tcplab/lab/expr"
)

// The lab's pinned ephemeral range, Linux's default: 28,232 ports.
const (
	portLow  = 32768
	portHigh = 60999
)

const portRangeKey = "net.ipv4.ip_local_port_range"

// portRange reads net.ipv4.ip_local_port_range.
func portRange(s string) (low, high int, ok bool) {
	parts := strings.Fields(s)
	if len(parts) != 2 {
		return 0, 0, false
	}
	low, err1 := strconv.Atoi(parts[0])
	high, err2 := strconv.Atoi(parts[1])
	return low, high, err1 == nil && err2 == nil && low >= 1 && high >= low && high <= 65535
}

// ports is the number of ephemeral ports of a host.
func ports(h *Host) int {
	low, high := portLow, portHigh
	if h != nil {
		if s, ok := h.Sysctl[portRangeKey]; ok {
			if l, hi, ok := portRange(s); ok {
				low, high = l, hi
			}
		}
	}
	return high - low + 1
}

func (a *Arm) host(name string) *Host {
	for i := range a.Hosts {
		if a.Hosts[i].Name == name {
			return &a.Hosts[i]
		}
	}
	return nil
}

func (a *Arm) server(name string) *Server {
	for i := range a.Servers {
		if a.Servers[i].Name == name {
			return &a.Servers[i]
		}
	}
	return nil
}

func (a *Arm) client(name string) *Client {
	for i := range a.Clients {
		if a.Clients[i].Name == name {
			return &a.Clients[i]
		}
	}
	return nil
}

func (a *Arm) link(name string) *Link {
	for i := range a.Links {
		if a.Links[i].Name == name {
			return &a.Links[i]
		}
	}
	return nil
}

// hop is one link in one direction.
type hop struct {
	link *Link
	to   string
}

// path is the shortest way from one host to another through hosts that
// forward; nil where there is none. Links come in the sheet's order.
func (a *Arm) path(from, to string) []hop {
	if from == to {
		return []hop{}
	}
	type step struct {
		host string
		way  []hop
	}
	seen := map[string]bool{from: true}
	queue := []step{{from, []hop{}}}
	for len(queue) > 0 {
		s := queue[0]
		queue = queue[1:]
		if h := a.host(s.host); s.host != from && (h == nil || h.Middlebox == nil && h.Router == nil) {
			continue // it does not forward
		}
		for i := range a.Links {
			l := &a.Links[i]
			next := ""
			switch s.host {
			case l.A:
				next = l.B
			case l.B:
				next = l.A
			}
			if next == "" || seen[next] {
				continue
			}
			way := append(s.way[:len(s.way):len(s.way)], hop{l, next})
			if next == to {
				return way
			}
			seen[next] = true
			queue = append(queue, step{next, way})
		}
	}
	return nil
}

// targetHost is where a client's packets end: the server's host, or for an
// address of a middlebox the first target behind it.
func (a *Arm) targetHost(t Target) string {
	if t.Server != "" {
		if s := a.server(t.Server); s != nil {
			return s.On
		}
		return ""
	}
	h := a.host(t.Host)
	if h == nil || h.Middlebox == nil || len(h.Middlebox.Targets) == 0 {
		return t.Host
	}
	first := h.Middlebox.Targets[0]
	if s := a.server(first); s != nil {
		return s.On
	}
	return first
}

// route is the way of a client's packets to its first target, and back.
func (a *Arm) route(c *Client) (there, back []hop) {
	if len(c.To) == 0 {
		return nil, nil
	}
	t := c.To[0]
	end := a.targetHost(t)
	if t.Host != "" {
		first, second := a.path(c.On, t.Host), a.path(t.Host, end)
		if first == nil || second == nil {
			return nil, nil
		}
		there = append(first, second...)
	} else if there = a.path(c.On, end); there == nil {
		return nil, nil
	}
	from := c.On
	for _, h := range there {
		back = append([]hop{{h.link, from}}, back...)
		from = h.to
	}
	return there, back
}

func (h hop) direction() Direction { return h.link.Wire.To[h.to] }

// numbers are the names that an arm's expressions may use. What programs
// disagree on has no short name: it is PROGRAM.NAME then.
func numbers(a *Arm) map[string]expr.Value {
	out := map[string]expr.Value{}
	// add puts NAME where all owners agree, and OWNER.NAME always.
	differ := map[string]bool{}
	add := func(owner, name string, v float64, u expr.Unit) {
		val := expr.Value{V: v, Unit: u}
		if owner != "" {
			out[owner+"."+name] = val
		}
		if old, ok := out[name]; ok && old != val || differ[name] {
			delete(out, name)
			differ[name] = true
			return
		}
		out[name] = val
	}
	seconds := func(d time.Duration) float64 { return d.Seconds() }
	for i := range a.Clients {
		c := &a.Clients[i]
		w := c.Workload
		if w.Rate > 0 {
			add(c.Name, "rate", w.Rate, expr.PerSecond)
		}
		if t := w.Recorded(); t != nil {
			add(c.Name, "rate", t.Rate(), expr.PerSecond)
			add(c.Name, "exchanges", float64(t.Within(a.Trial.Length())), expr.One)
		}
		if w.RateTo > 0 {
			add(c.Name, "rate_to", w.RateTo, expr.PerSecond)
		}
		add(c.Name, "ports", float64(ports(a.host(c.On))), expr.One)
		if w.Kind != "" && c.Kind != "bulk" {
			add(c.Name, "connections", float64(w.Connections), expr.One)
			if w.Size > 0 || w.Trace == "" {
				add(c.Name, "size", float64(w.Size), expr.Byte)
			}
		}
		if c.Kind == "bulk" && w.Size > 0 {
			add(c.Name, "size", float64(w.Size), expr.Byte)
		}
		if v, ok := buffer(c.Options["SO_SNDBUF"]); ok {
			add(c.Name, "sndbuf", v, expr.Byte)
		}
		if h, ok := c.Extra["heartbeat"].(map[string]any); ok {
			for _, k := range []string{"every", "timeout"} {
				if v, ok := numeric(h[k]); ok {
					add(c.Name, "heartbeat_"+k, v, expr.Second)
				}
			}
		}
		if w.Response > 0 {
			add(c.Name, "response", float64(w.Response), expr.Byte)
		}
		if c.Reuse == "pool" {
			add(c.Name, "pool", float64(c.Pool.Size), expr.One)
		}
		if c.Deadline > 0 {
			add(c.Name, "deadline", seconds(c.Deadline), expr.Second)
		}
		if w.Think > 0 {
			add(c.Name, "think", seconds(w.Think), expr.Second)
		}
		for _, k := range concat(kindKeys(RoleClient, c.Kind), kindKeys(RoleWorkload, w.Kind)) {
			v, ok := c.Extra[k.Name]
			if !ok {
				v, ok = w.Extra[k.Name]
			}
			if x, isNumber := numeric(v); ok && isNumber {
				add(c.Name, k.Name, x, formUnit(k.Form))
			}
		}
		there, back := a.route(c)
		if there == nil {
			continue
		}
		var delay, rtt float64
		pass, rate, mtu := 1.0, math.Inf(1), 1500
		data := there
		if b, _ := c.Extra["receive"].(bool); b {
			data = back
		}
		for _, h := range there {
			delay += seconds(h.direction().Delay)
		}
		for _, h := range append(there[:len(there):len(there)], back...) {
			rtt += seconds(h.direction().Delay)
			if m := h.direction().MTU; m > 0 {
				mtu = min(mtu, m)
			}
		}
		for _, h := range data {
			d := h.direction()
			loss := d.Loss
			if g := d.GE; g != nil && g.P+g.R > 0 {
				bad := g.P / (g.P + g.R) // share of time in the bad state
				loss = bad*g.Bad + (1-bad)*g.Good
			}
			pass *= 1 - loss
			if d.Rate > 0 {
				rate = math.Min(rate, d.Rate)
			}
		}
		add(c.Name, "delay", delay, expr.Second)
		add(c.Name, "rtt", rtt, expr.Second)
		add(c.Name, "loss", 1-pass, expr.Share)
		add(c.Name, "mtu", float64(mtu), expr.Byte)
		if !math.IsInf(rate, 1) {
			add(c.Name, "bandwidth", rate, expr.BitPerSecond)
		}
	}
	for i := range a.Servers {
		s := &a.Servers[i]
		if s.Workers > 0 {
			add(s.Name, "workers", float64(s.Workers), expr.One)
		}
		if s.Service > 0 {
			add(s.Name, "service", seconds(s.Service), expr.Second)
		}
		if v, ok := buffer(s.Options["SO_RCVBUF"]); ok {
			add(s.Name, "rcvbuf", v, expr.Byte)
		}
		add(s.Name, "backlog", float64(s.Backlog), expr.One)
		if n := a.host(s.On).NoFile; n > 0 {
			add(s.Name, "nofile", float64(n), expr.One)
		}
	}
	add("", "warmup", seconds(a.Trial.Warmup), expr.Second)
	if a.Trial.Duration > 0 {
		add("", "duration", seconds(a.Trial.Duration), expr.Second)
	}
	add("", "length", seconds(a.Trial.Length()), expr.Second)
	return out
}

// buffer reads a socket buffer's size as the option asks for it, before the
// kernel doubles it.
func buffer(option string) (float64, bool) {
	v, err := expr.ParseQuantity(option)
	return v.V, err == nil && (v.Unit.Is(expr.Byte) || v.Unit.Is(expr.One))
}

func numeric(v any) (float64, bool) {
	switch v := v.(type) {
	case time.Duration:
		return v.Seconds(), true
	case float64:
		return v, true
	case int:
		return float64(v), true
	}
	return 0, false
}
