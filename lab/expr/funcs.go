package expr

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// Function is one function of the language, for the sheet reference.
type Function struct {
	Name   string
	Usage  string // "rto_chain(n[, first])"
	Doc    string // what it gives, in which unit
	Source string // RFC, kernel file or paper; empty for plain arithmetic
}

// Functions are all functions of the language, by name.
func Functions() []Function {
	var out []Function
	for _, n := range functionNames() {
		out = append(out, functions[n].Function)
	}
	return out
}

type function struct {
	Function
	min, max int    // number of arguments; max < 0 is any
	asks     string // the sheet's name whose value it is
	result   Unit   // of a function that asks
	unit     func(c *call, args []Unit) (Unit, *Error)
	value    func(args []Value) (float64, error)
}

func (f *function) arity() string {
	count := func(n int) string {
		if n == 1 {
			return "1 argument"
		}
		return fmt.Sprintf("%d arguments", n)
	}
	switch {
	case f.max < 0:
		return "at least " + count(f.min)
	case f.min == f.max:
		return count(f.min)
	}
	if f.max == f.min+1 {
		return fmt.Sprintf("%d or %s", f.min, count(f.max))
	}
	return fmt.Sprintf("%d to %s", f.min, count(f.max))
}

// Kernel constants that predictions rest on, in seconds.
const (
	timeWaitLength = 60.0  // TCP_TIMEWAIT_LEN, include/net/tcp.h: a constant; tcp_fin_timeout does not change it
	rtoMin         = 0.2   // TCP_RTO_MIN, include/net/tcp.h
	rtoMax         = 120.0 // TCP_RTO_MAX, include/net/tcp.h
	rtoInitial     = 1.0   // TCP_TIMEOUT_INIT, RFC 6298 2.1
	linearSYNs     = 4     // tcp_syn_linear_timeouts, default since Linux 6.5
	delayedACK     = 0.04  // TCP_DELACK_MIN, include/net/tcp.h
	ethernetMSS    = 1448  // bytes: MTU 1500 less 20 IP, 20 TCP, 12 timestamps (RFC 7323)
	orphanRetries  = 8     // tcp_orphan_retries: what 0 means while the RTO is below its largest
	bufferOverhead = 832   // bytes: what a packet buffer is charged beside its data, SKB_TRUESIZE of tcp_stream_alloc_skb on 64 bit
	loneMessages   = 3     // messages that have a packet buffer of their own before the first timeout
)

const (
	isnClock   = 1e9 / 64 // bytes/s: seq_scale, net/core/secure_seq.c
	timeoutMin = 0.012    // s: TCP_TIMEOUT_MIN (include/net/tcp.h), two ticks, and the wheel's rounding up, at 250 Hz
)

var functions = map[string]*function{}

func init() {
	for _, f := range []*function{
		{
			Function: Function{"time_wait", "time_wait()", "how long TIME-WAIT lasts on Linux: 60 s, whatever tcp_fin_timeout says", "TCP_TIMEWAIT_LEN, include/net/tcp.h"},
			unit:     takes(Second),
			value:    func([]Value) (float64, error) { return timeWaitLength, nil },
		},
		{
			Function: Function{"ports", "ports()", "the client's ephemeral ports, the sheet's name ports: a count", "net.ipv4.ip_local_port_range"},
			asks:     "ports", result: One,
		},
		{
			Function: Function{"rtt", "rtt()", "the wire's round trip without queues, the sheet's name rtt: a time", ""},
			asks:     "rtt", result: Second,
		},
		{
			Function: Function{"rto_chain", "rto_chain(n[, first[, largest]])",
				"how long unacknowledged data is retransmitted before ETIMEDOUT, with tcp_retries2 = n. Without first it is the kernel's nominal sum, the RTO doubling from 200 ms to 120 s: 924.6 s for 15. With first, the connection's own RTO (round trip + 200 ms at least), it is the first expiry that is a nominal sum after the first timeout, and that timeout comes an RTO late, after a tail loss probe (RFC 8985 7): 945.3 s for 15 and 220 ms. largest is tcp_rto_max_ms, where the kernel has it. The timer wheel adds up to an eighth to each step",
				"tcp_model_timeout and retransmits_timed_out, net/ipv4/tcp_timer.c; tcp_send_loss_probe, net/ipv4/tcp_output.c"},
			min: 1, max: 3,
			unit: takes(Second, One, Second, Second),
			value: func(a []Value) (float64, error) {
				n, err := retries(a[0])
				if err != nil {
					return 0, err
				}
				return rtoChain(n, a[1:])
			},
		},
		{
			Function: Function{"orphan_chain", "orphan_chain(n[, first])",
				"how long a socket that its program has closed goes on retransmitting, with tcp_orphan_retries = n: as rto_chain, with n in the place of tcp_retries2, and 8 in the place of 0: nominally 102.2 s",
				"tcp_orphan_retries and tcp_write_timeout, net/ipv4/tcp_timer.c"},
			min: 1, max: 2,
			unit: takes(Second, One, Second),
			value: func(a []Value) (float64, error) {
				n, err := retries(a[0])
				if err != nil {
					return 0, err
				}
				if n == 0 {
					n = orphanRetries
				}
				return rtoChain(n, a[1:])
			},
		},
		{
			Function: Function{"user_timeout", "user_timeout(timeout, first)",
				"how long data stays unacknowledged before ETIMEDOUT with TCP_USER_TIMEOUT, where first is the connection's RTO: the kernel counts from the first timeout, which comes two RTOs after the data, a tail loss probe between them. 20.4 s for 20 s and 220 ms",
				"tcp_clamp_rto_to_user_timeout, net/ipv4/tcp_timer.c; RFC 5482"},
			min: 2, max: 2,
			unit: takes(Second, Second, Second),
			value: func(a []Value) (float64, error) {
				if err := checkRTO(a[1].V, rtoMax); err != nil {
					return 0, err
				}
				return a[0].V + 2*a[1].V, nil
			},
		},
		{
			Function: Function{"unheard", "unheard(sndbuf, rcvbuf, message)",
				"how many bytes write() accepts, message by message, once the peer has vanished. SO_SNDBUF is doubled; each packet buffer is charged its data and 832 B; no further one is begun once the charge has reached the limit, but the one that is begun is filled: up to half of the peer's window (which is SO_RCVBUF, doubled and halved again) in whole segments. Three messages left by themselves before that. 130,424 B for 64KiB, 64KiB, 1,000 B",
				"sk_stream_memory_free and tcp_sendmsg_locked, net/ipv4/tcp.c; tcp_bound_to_half_wnd, include/net/tcp.h; the three: measured"},
			min: 3, max: 3,
			unit: takes(Byte, Byte, Byte, Byte),
			value: func(a []Value) (float64, error) {
				return unheard(a[0].V, a[1].V, a[2].V)
			},
		},
		{
			Function: Function{"syn_chain", "syn_chain(n[, linear[, first]])",
				"how long connect() tries with tcp_syn_retries = n. The SYN goes out again after 1 s each for tcp_syn_linear_timeouts, 4 unless given (0 before Linux 6.5), and then after 1 s, 2 s, 4 s … up to 120 s; first is the first of these waits where it is another one. The end is the first timeout, one retransmission or more before it, at which n waits that double from 1 s and one wait more would have passed: 3 s for 1, 7 s for 2, 19 s for 3 (whose 15 s fall between two timeouts), 131 s for 6",
				"tcp_write_timeout and retransmits_timed_out, net/ipv4/tcp_timer.c; RFC 6298 2.1"},
			min: 1, max: 3,
			unit: takes(Second, One, One, Second),
			value: func(a []Value) (float64, error) {
				n, err := retries(a[0])
				linear, first := linearSYNs, rtoInitial
				if err == nil && len(a) > 1 {
					linear, err = retries(a[1])
				}
				if err == nil && len(a) > 2 {
					if first = a[2].V; !(first > 0) {
						err = fmt.Errorf("the first wait is %g s: give a time above 0", first)
					}
				}
				return synChain(n, linear, first), err
			},
		},
		{
			Function: Function{"syn_recv_life", "syn_recv_life(n)",
				"how long a half-open connection whose ACK never comes stays in SYN-RECV, with tcp_synack_retries = n: the SYN-ACK is sent again after 1 s, 2 s, 4 s … up to 120 s, n times, and given up after one wait more: 63 s for 5. Where such connections fill more than half of a listener's queue, the kernel takes n down to 2 at the least: syn_recv_life(2) is 7 s",
				"reqsk_timer_handler and syn_ack_recalc, net/ipv4/inet_connection_sock.c"},
			min: 1, max: 1,
			unit: takes(Second, One),
			value: func(a []Value) (float64, error) {
				n, err := retries(a[0])
				return backoffs(rtoInitial, n+1, rtoMax), err
			},
		},
		{
			Function: Function{"window_unscaled", "window_unscaled([mss])",
				"the most that a receiver without window scaling offers: 65,535 B in the header's field, of which Linux offers whole segments. 64,240 B for an mss of 1460B, which it is unless given",
				"__tcp_select_window, net/ipv4/tcp_output.c; RFC 7323 2.2"},
			min: 0, max: 1,
			unit: takes(Byte, Byte),
			value: func(a []Value) (float64, error) {
				mss := 1460.0
				if len(a) == 1 {
					mss = a[0].V
				}
				if !(mss >= 1) || mss > 65535 {
					return 0, errors.New("an mss is from 1 B to 65,535 B")
				}
				return math.Floor(65535/mss) * mss, nil
			},
		},
		{
			Function: Function{"keepalive", "keepalive(time, interval, probes)",
				"how long an idle connection to a dead peer looks alive: time + interval * probes, 7,875 s for 2h, 75s, 9. The kernel's timers add up to an eighth",
				"tcp_keepalive_timer, net/ipv4/tcp_timer.c; RFC 1122 4.2.3.6"},
			min: 3, max: 3,
			unit: takes(Second, Second, Second, One),
			value: func(a []Value) (float64, error) {
				n, err := retries(a[2])
				return a[0].V + a[1].V*float64(n), err
			},
		},
		{
			Function: Function{"isn_clock", "isn_clock()",
				"how fast initial sequence numbers advance: by one every 64 ns, 15.6 MB/s; a connection that is faster ends beyond the numbers that the next one with the same ports begins with. RFC 9293, 3.4.1, asks for one every 4 µs or so",
				"seq_scale, net/core/secure_seq.c"},
			unit:  takes(BitPerSecond),
			value: func([]Value) (float64, error) { return 8 * isnClock, nil },
		},
		{
			Function: Function{"syn_again", "syn_again()",
				"how soon, at the latest, a SYN is sent again that was answered by an ACK of something else: 2 ticks of the kernel's clock and the rest of one, 12 ms at the usual 250 Hz",
				"tcp_rcv_synsent_state_process, net/ipv4/tcp_input.c; TCP_TIMEOUT_MIN, include/net/tcp.h"},
			unit:  takes(Second),
			value: func([]Value) (float64, error) { return timeoutMin, nil },
		},
		{
			Function: Function{"delayed_ack", "delayed_ack()",
				"how long Linux delays the ACK of a small segment, where nothing goes back that it could go along with: 40 ms, and up to a tick of the kernel's clock more. The 200 ms of older texts is the most that it may be (TCP_DELACK_MAX)",
				"TCP_DELACK_MIN, include/net/tcp.h; tcp_send_delayed_ack, net/ipv4/tcp_output.c"},
			unit:  takes(Second),
			value: func([]Value) (float64, error) { return delayedACK, nil },
		},
		{
			Function: Function{"mathis", "mathis(loss, rtt[, mss])",
				"what loss leaves of a Reno connection's data rate: MSS / RTT * sqrt(3/2) / sqrt(loss), in bit/s; mss is 1448B unless given",
				"Mathis, Semke, Mahdavi, Ott: The macroscopic behavior of the TCP congestion avoidance algorithm (1997)"},
			min: 2, max: 3,
			unit: takes(BitPerSecond, Share, Second, Byte),
			value: func(a []Value) (float64, error) {
				mss := float64(ethernetMSS)
				if len(a) == 3 {
					mss = a[2].V
				}
				return 8 * mss / a[1].V * math.Sqrt(1.5) / math.Sqrt(a[0].V), nil
			},
		},
		{
			Function: Function{"abs", "abs(x)", "x without its sign", ""},
			min:      1, max: 1, unit: alike,
			value: func(a []Value) (float64, error) { return math.Abs(a[0].V), nil },
		},
		{
			Function: Function{"min", "min(x, y, …)", "the least of values with one unit", ""},
			min:      1, max: -1, unit: alike,
			value: fold(math.Min),
		},
		{
			Function: Function{"max", "max(x, y, …)", "the greatest of values with one unit", ""},
			min:      1, max: -1, unit: alike,
			value: fold(math.Max),
		},
		{
			Function: Function{"sum", "sum(x, y, …)", "the sum of values with one unit", ""},
			min:      1, max: -1, unit: alike,
			value: fold(func(x, y float64) float64 { return x + y }),
		},
		{
			Function: Function{"sqrt", "sqrt(x)", "the square root, of a count, a share or a square", ""},
			min:      1, max: 1, unit: root,
			value: func(a []Value) (float64, error) {
				u := Unit{time: a[0].Unit.time / 2, data: a[0].Unit.data / 2}
				return math.Sqrt(a[0].V*a[0].Unit.bits()) / u.bits(), nil
			},
		},
		{
			Function: Function{"floor", "floor(x)", "the whole number at or below a count", ""},
			min:      1, max: 1, unit: takes(One, One),
			value: func(a []Value) (float64, error) { return math.Floor(a[0].V), nil },
		},
		{
			Function: Function{"ceil", "ceil(x)", "the whole number at or above a count", ""},
			min:      1, max: 1, unit: takes(One, One),
			value: func(a []Value) (float64, error) { return math.Ceil(a[0].V), nil },
		},
	} {
		functions[f.Name] = f
	}
}

func functionNames() []string { return slices.Sorted(maps.Keys(functions)) }

// takes types a function with these parameters; fewer arguments are optional
// ones left out (their number is checked by Parse).
func takes(result Unit, params ...Unit) func(*call, []Unit) (Unit, *Error) {
	return func(c *call, args []Unit) (Unit, *Error) {
		for i, u := range args {
			if u.Is(params[i]) {
				continue
			}
			advice := "write " + c.fn.Usage
			if lit := literal(c.args[i]); lit != nil {
				advice = retype("", lit, "", params[i])
			}
			return One, errAt(c.args[i].col(), advice, "%s is %s, and %s wants %s there", text(c.args[i]), u.describe(), c.fn.Name, params[i].describe())
		}
		return result, nil
	}
}

// alike types a function of values with one unit, which is its result's too.
func alike(c *call, args []Unit) (Unit, *Error) {
	u := args[0]
	for i := 1; i < len(args); i++ {
		if err := sameUnit(",", c.args[i].col(), c.args[0], c.args[i], args[0], args[i]); err != nil {
			return One, err
		}
		u.share = u.share && args[i].share
	}
	return u, nil
}

// root types sqrt: only even powers have one.
func root(c *call, args []Unit) (Unit, *Error) {
	u := args[0]
	if u.time%2 != 0 || u.data%2 != 0 {
		return One, errAt(c.args[0].col(), "divide it by its unit first, such as x / 1s", "%s is %s, which has no square root", text(c.args[0]), u.describe())
	}
	return Unit{time: u.time / 2, data: u.data / 2}, nil
}

func fold(f func(x, y float64) float64) func([]Value) (float64, error) {
	return func(a []Value) (float64, error) {
		out := a[0].V
		for _, v := range a[1:] {
			out = f(out, v.V)
		}
		return out, nil
	}
}

// retries reads a number of retransmissions or probes, a u8 in the kernel.
func retries(v Value) (int, error) {
	if v.V != math.Trunc(v.V) || v.V < 0 || v.V > 255 {
		return 0, fmt.Errorf("%s is no number of retries (0 to 255)", v)
	}
	return int(v.V), nil
}

// backoffs is the sum of n waits that double from first up to the largest RTO.
func backoffs(first float64, n int, largest float64) float64 {
	total, wait := 0.0, first
	for range n {
		total += wait
		wait = math.Min(2*wait, largest)
	}
	return total
}

// synChain is how long connect() tries: a timeout ends it when as many
// retransmissions as allowed are out, or when the time that n doubling waits
// would have taken has passed, which comes first where n is small.
func synChain(n, linear int, first float64) float64 {
	most := backoffs(rtoInitial, n+1, rtoMax)
	at, wait := first, rtoInitial
	for sent := 0; ; sent++ {
		if sent >= n+linear || sent > 0 && at >= most {
			return at
		}
		if sent >= linear { // this timeout doubles the next wait
			wait = math.Min(2*wait, rtoMax)
		}
		at += wait
	}
}

// rtoChain takes the arguments after the number of retries: the first RTO and
// the largest.
func rtoChain(n int, rest []Value) (float64, error) {
	largest := rtoMax
	if len(rest) > 1 {
		if largest = rest[1].V; !(largest >= 1) || largest > rtoMax {
			return 0, errors.New("the largest RTO is from 1 s to 120 s")
		}
	}
	if len(rest) == 0 {
		return modelTimeout(n, largest), nil
	}
	if err := checkRTO(rest[0].V, largest); err != nil {
		return 0, err
	}
	return retransmissionTimeout(n, rest[0].V, largest), nil
}

func checkRTO(first, largest float64) error {
	if !(first > 0) || first > largest {
		return fmt.Errorf("the first RTO is above 0 s and at most %g s", largest)
	}
	return nil
}

// modelTimeout is the kernel's tcp_model_timeout for data: n retransmissions
// and the wait after the last one.
func modelTimeout(n int, largest float64) float64 { return backoffs(rtoMin, n+1, largest) }

// retransmissionTimeout is when a connection whose RTO is first gives up, from
// the first transmission on. The tail loss probe comes when the RTO would be
// due, for with one segment in flight its own time is two round trips and the
// least RTO (tcp_schedule_loss_probe), and the RTO starts anew from there.
// retransmits_timed_out compares the time since the first timeout with the
// nominal sum at each expiry, so a connection with a long RTO makes fewer
// retransmissions than tcp_retries2 says, and one with a few retries one more
// (retries 3, RTO 210 ms: 6.72 s, not 3.36).
func retransmissionTimeout(n int, first, largest float64) float64 {
	// Timers of the wheel never fire early and up to an eighth late
	// (kernel/time/timer.c); a 64th of that is certain enough to count on, and
	// carries the nominal 200 ms over its own threshold.
	const late = 1 + 1.0/64
	budget := modelTimeout(n, largest)
	begun := 2 * first
	now, wait := begun, math.Min(2*first, largest)
	for (now-begun)*late < budget {
		now += wait
		wait = math.Min(2*wait, largest)
	}
	return now
}

// unheard is what write() accepts of messages that nobody acknowledges.
func unheard(sndbuf, rcvbuf, message float64) (float64, error) {
	goal := math.Floor(rcvbuf/2/ethernetMSS) * ethernetMSS
	if !(message >= 1) || message > ethernetMSS || goal < ethernetMSS {
		return 0, fmt.Errorf("messages are from 1 to %d B, and rcvbuf at least %d B", ethernetMSS, 2*ethernetMSS)
	}
	left := 2*sndbuf - loneMessages*(bufferOverhead+message)
	return loneMessages*message + math.Max(0, math.Ceil(left/(bufferOverhead+goal)))*goal, nil
}

// nearestAdvice suggests the candidate that word was probably meant to be.
func nearestAdvice(word string, candidates []string) string {
	best, distance := "", 3
	for _, c := range candidates {
		if d := editDistance(word, c); d < distance {
			best, distance = c, d
		}
	}
	if best != "" && distance < len(word) {
		return "did you mean " + best + "?"
	}
	return "there are " + strings.Join(candidates, ", ")
}

// editDistance is Levenshtein's.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
