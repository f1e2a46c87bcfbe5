package crosscheck

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"tcplab/lab/clock"
	"tcplab/results"
)

// experiments are all that is timed; each has hosts and a link of its own.
var experiments = []struct {
	name string
	time func(hz int) ([]timing, error)
}{
	{"RTO chain", retransmissions},
	{"keepalive", keepalive},
	{"conntrack", conntrack},
	{"delayed ACK", delayedACK},
}

// A timing is one round of a timer, between two instants of the clock.
type timing struct {
	Round
	name     string
	from, to int64
}

// onWheel is a timer on the kernel's wheel. It is never early: what is set
// within a tick counts from the tick's end, and the bucket is the next one
// (kernel/time/timer.c: calc_index). The wheel's own clock may be a tick behind
// when the timer is set (forward_timer_base).
func onWheel(name string, nominal float64, hz int, from, to int64) timing {
	return timing{Round{Nominal: nominal, Granule: results.WheelGranule(nominal+1/float64(hz), hz)}, name, from, to}
}

// rtoMin is the least RTO, s, in the place of Linux's 200 ms.
const rtoMin = 0.3

// retransmissions times what a client does with data that nobody acknowledges
// until it gives up, with tcp_retries2 = 3: at the first expiry that is 15 times
// 200 ms after the first timeout (retransmits_timed_out). Doubling from 200 ms,
// an expiry would come just before that, and a late machine would push it
// over: from 300 ms, one is 1.8 s and the next 4.2 s after the first timeout.
func retransmissions(hz int) ([]timing, error) {
	c, err := converse(map[string]string{"net.ipv4.tcp_retries2": "3", "net.ipv4.tcp_rto_min_us": fmt.Sprint(rtoMin * 1e6)}, nil, false)
	if err != nil {
		return nil, err
	}
	defer c.close()
	info, err := unix.GetsockoptTCPInfo(c.client, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return nil, err
	}
	if err := c.deafen(); err != nil {
		return nil, err
	}
	if _, err := unix.Write(c.client, []byte("data")); err != nil {
		return nil, err
	}
	at, end, err := c.silence()
	if err != nil {
		return nil, err
	}
	// The least RTO and the round trip, in whole ticks (__tcp_set_rto).
	rto := float64(info.Rto) / 1e6
	// One segment in flight: its tail loss probe is due with the timeout, which
	// starts anew from there (tcp_schedule_loss_probe, RFC 8985 7).
	names, backoff := []string{"tail loss probe", "timeout 1", "timeout 2", "timeout 3", timedOut}, []float64{1, 1, 2, 4, 8}
	if at = append(at, end); len(at) > len(names)+1 {
		return nil, fmt.Errorf("%d steps, and there should be %d", len(at)-1, len(names))
	} else if len(at) <= len(names) { // so late a machine that it gave up too soon
		names = names[:max(len(at)-2, 0)]
	}
	var all []timing
	for i, name := range names {
		all = append(all, onWheel(name, backoff[i]*rto, hz, at[i], at[i+1]))
	}
	return all, nil
}

// timedOut is the step that has an end, and no packet but an RST.
const timedOut = "ETIMEDOUT"

// keepalive times the probes of an idle connection whose peer has gone.
func keepalive(hz int) ([]timing, error) {
	c, err := converse(nil, nil, false)
	if err != nil {
		return nil, err
	}
	defer c.close()
	if err := c.deafen(); err != nil {
		return nil, err
	}
	for _, o := range [][2]int{{unix.TCP_KEEPIDLE, 1}, {unix.TCP_KEEPINTVL, 1}, {unix.TCP_KEEPCNT, 3}} {
		if err := unix.SetsockoptInt(c.client, unix.IPPROTO_TCP, o[0], o[1]); err != nil {
			return nil, err
		}
	}
	began := clock.Now() // it is this that sets the timer (tcp_set_keepalive)
	if err := unix.SetsockoptInt(c.client, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1); err != nil {
		return nil, err
	}
	at, _, err := c.silence()
	if err != nil {
		return nil, err
	}
	names := []string{"probe 1", "probe 2", "probe 3", timedOut} // with an RST (tcp_send_active_reset)
	if len(at) != len(names) {
		return nil, fmt.Errorf("%d packets, not three probes and an RST", len(at))
	}
	var all []timing
	for i, name := range names {
		all = append(all, onWheel(name, 1, hz, began, at[i]))
		began = at[i]
	}
	return all, nil
}

// Of an entry of the connection tracker.
const (
	entryLives = 10 * time.Second
	lookFrom   = entryLives - 100*time.Millisecond
	lookEach   = time.Millisecond
)

// conntrack times how long the tracker knows a connection without a packet. No
// timer ends an entry: it carries the tick at which it does (nf_ct_is_expired),
// and whoever looks then, a packet or a program, does not find it. The tick in
// which it began counts as a whole one, so that it is early by up to one.
func conntrack(hz int) ([]timing, error) {
	c, err := converse(nil, map[string]string{"net.netfilter.nf_conntrack_tcp_timeout_established": fmt.Sprint(entryLives.Seconds())}, true)
	if err != nil {
		return nil, err
	}
	defer c.close()
	tick := 1 / float64(hz)
	t := timing{Round{Nominal: entryLives.Seconds(), Early: -tick, Granule: tick}, "entry's end", c.last, 0}
	err = c.hosts[1].Do(func() error {
		if err := c.lookUp(); err != nil {
			return fmt.Errorf("the connection is not tracked: %w", err)
		}
		time.Sleep(time.Duration(t.from + int64(lookFrom) - clock.Now()))
		for seen := t.from; ; seen = t.to {
			t.to = clock.Now()
			err := c.lookUp()
			if errors.Is(err, unix.ENOENT) {
				// It ended between the look that found it and this one's end.
				t.Late = clock.Seconds(seen, clock.Now())
				return nil
			}
			if err != nil {
				return err
			}
			time.Sleep(lookEach)
		}
	})
	return []timing{t}, err
}

// Of the exchanges in which a write waits for the ACK of the one before it
// (RFC 896), and the ACK for data to go with (RFC 1122 4.2.3.2).
const (
	delackMin = 0.04 // TCP_DELACK_MIN, s
	exchanges = 12
)

// delayedACK times requests that are written in two pieces: what the second
// waits for on the wire. It takes the shortest wait that is one, for an ACK is
// sent at once while a connection is young or was silent for an RTO, and
// delayed for longer where a late machine makes the round trip longer
// (tcp_send_delayed_ack).
func delayedACK(hz int) ([]timing, error) {
	c, err := converse(nil, nil, false)
	if err != nil {
		return nil, err
	}
	defer c.close()
	var stalls []timing
	for range exchanges {
		if err := c.exchange([]int{100, 900}, 1); err != nil {
			return nil, err
		}
		frames, err := c.heard()
		if err != nil {
			return nil, err
		}
		var at []int64
		for _, f := range frames {
			if f.out && f.payload > 0 {
				at = append(at, f.at)
			}
		}
		if len(at) != 2 {
			return nil, fmt.Errorf("a request of two writes left in %d segments", len(at))
		}
		if clock.Seconds(at[0], at[1]) > delackMin/2 {
			stalls = append(stalls, onWheel("stall", delackMin, hz, at[0], at[1]))
		}
	}
	if len(stalls) < exchanges/2 {
		return nil, fmt.Errorf("%d of %d exchanges stalled", len(stalls), exchanges)
	}
	return []timing{slices.MinFunc(stalls, func(a, b timing) int { return cmp.Compare(a.to-a.from, b.to-b.from) })}, nil
}
