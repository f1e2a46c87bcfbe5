package trial

import (
	"strconv"
	"strings"
	"time"

	"tcplab/lab/clock"
	"tcplab/lab/sheet"
	"tcplab/netns/capture"
	"tcplab/results"
)

// A slow failure is a chain of timeouts in the capture. What it should look
// like follows from settings that its packets do not show: they are read back
// from the kernel where the sheet does not set them on the socket.

// timers are a host's settings of TCP's own clocks.
type timers struct {
	idle, interval float64 // of keepalive, s; 0: not known
	probes         int
	rtoMax         float64
}

// hostTimers reads a host's settings; options of the programs on it come
// first, since that is what their sockets go by.
func (o *one) hostTimers(host string) timers {
	number := func(option, key string) float64 {
		for _, set := range o.optionsOn(host) {
			if v, ok := plainSeconds(set[option]); ok {
				return v
			}
		}
		h := o.st.hosts[host]
		if h == nil {
			return 0
		}
		text, err := h.Sysctl(key)
		if err != nil {
			return 0
		}
		v, _ := strconv.ParseFloat(strings.TrimSpace(text), 64)
		return v
	}
	t := timers{
		idle: number("TCP_KEEPIDLE", "net.ipv4.tcp_keepalive_time"), interval: number("TCP_KEEPINTVL", "net.ipv4.tcp_keepalive_intvl"),
		probes: int(number("TCP_KEEPCNT", "net.ipv4.tcp_keepalive_probes")), rtoMax: results.RTOMax,
	}
	// Linux has the sysctl from 6.15 on, ms.
	if ms := number("", "net.ipv4.tcp_rto_max_ms"); ms > 0 {
		t.rtoMax = ms / 1e3
	}
	return t
}

// optionsOn lists the socket options that the sheet gives programs on a host.
func (o *one) optionsOn(host string) (all []map[string]string) {
	for _, c := range o.arm.Clients {
		if c.On == host {
			all = append(all, c.Options)
		}
	}
	for _, s := range o.arm.Servers {
		if s.On == host {
			all = append(all, s.Options)
		}
	}
	return all
}

// plainSeconds reads an option's value: a number of seconds or probes, or a
// duration.
func plainSeconds(s string) (float64, bool) {
	if v, err := strconv.ParseFloat(s, 64); err == nil {
		return v, true
	}
	if d, err := time.ParseDuration(s); err == nil {
		return d.Seconds(), true
	}
	return 0, false
}

// chains puts the trial's chains into the record, each with what was predicted
// of it, and their metrics with the hosts that programs run on: what forwards
// sends nothing of its own.
func (o *one) chains(cs []results.Chain) {
	hz := clock.HZ()
	known := map[string]timers{}
	for i := range cs {
		c := &cs[i]
		t, ok := known[c.Host]
		if !ok {
			t = o.hostTimers(c.Host)
			known[c.Host] = t
		}
		switch c.Kind {
		case results.ChainRTO:
			c.Predict(hz, t.rtoMax)
		case results.ChainKeepalive:
			c.PredictKeepalive(hz, t.idle, t.interval)
		}
	}
	o.out.Chains = cs
	for _, h := range o.arm.Hosts {
		if len(o.optionsOn(h.Name)) == 0 {
			continue
		}
		for metric, v := range results.ChainMetrics(cs, h.Name) {
			o.put(h.Name, metric, v)
		}
	}
}

// about turns what a sheet says of its evidence into what the capture knows:
// programs are known by their hosts, events by their instants.
func (o *one) about(ev sheet.Evidence) capture.Around {
	var a capture.Around
	client, server, _ := strings.Cut(ev.Flow, ">")
	for _, c := range o.arm.Clients {
		if c.Name == client {
			a.Client = c.On
		}
	}
	for _, s := range o.arm.Servers {
		if s.Name == server {
			a.Server = s.On
		}
	}
	if ev.At == "" {
		return a
	}
	if d, err := time.ParseDuration(ev.At); err == nil {
		a.At = o.rec.zero() + int64(d)
		return a
	}
	for _, f := range o.arm.Faults {
		if f.Name == ev.At {
			a.At = o.rec.zero() + int64(f.At)
		}
	}
	o.evMu.Lock()
	defer o.evMu.Unlock()
	if at, ok := o.reached[ev.At]; ok {
		a.At = at
	}
	return a
}
