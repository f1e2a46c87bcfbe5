package program

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"tcplab/lab/agent"
	"tcplab/lab/expr"
	"tcplab/netns/wire"
)

// WireFault turns a fault of the sheet into one of the wire between hosts a
// and b.
func WireFault(f agent.Fault, a, b string) (wire.Fault, error) {
	to, err := towards(f.Towards, a, b)
	if err != nil {
		return wire.Fault{}, err
	}
	o := wire.Fault{Name: f.Name, At: f.At, Towards: to, Do: wire.Action(f.Do)}
	if f.Do == "drop-once" {
		o.Do = wire.DoDrop
	}
	var args struct {
		For   time.Duration     `json:"for"`
		ARP   string            `json:"arp"`
		Match map[string]string `json:"match"`
		Set   map[string]any    `json:"set"`
	}
	raw, err := json.Marshal(f.Args)
	if err == nil {
		err = json.Unmarshal(raw, &args)
	}
	if err != nil {
		return o, fmt.Errorf("fault %s: %w", f.Name, err)
	}
	o.For, o.ARP = args.For, args.ARP == "too"
	if o.Match, err = wireMatch(args.Match); err != nil {
		return o, fmt.Errorf("fault %s: %w", f.Name, err)
	}
	if f.Do == "drop" && o.Match.Count == 0 {
		o.Match.Count = -1 // as long as it lasts
	}
	if f.Do == "hold" {
		o.Successor, o.Match.Kind = true, "data"
	}
	if args.Set != nil {
		if o.Set, err = wireChange(args.Set); err != nil {
			return o, fmt.Errorf("fault %s: set: %w", f.Name, err)
		}
	}
	return o, nil
}

// segmentKinds are a sheet's flags, as tcpdump writes them, by the wire's names.
var segmentKinds = map[string]string{"": "", "S": "SYN", "SA": "SYN-ACK", "F": "FIN", "FA": "FIN", "R": "RST", "RA": "RST", "A": "ACK", "P": "data", "PA": "data"}

func wireMatch(m map[string]string) (wire.Match, error) {
	var o wire.Match
	for k, v := range m {
		if k == "flags" {
			kind, ok := segmentKinds[v]
			if !ok {
				return o, fmt.Errorf("flags %q: write S, SA, F, R, A or P", v)
			}
			o.Kind = kind
			continue
		}
		n, err := strconv.Atoi(v)
		if err != nil {
			return o, fmt.Errorf("match %s: %q is no number", k, v)
		}
		switch k {
		case "flow":
			o.Flow = n
		case "nth":
			o.Nth = n
		case "count":
			o.Count = n
		case "port":
			o.Port = n
		case "tos":
			o.TOS = n
		default:
			return o, fmt.Errorf("match knows no %q: write flow, flags, nth, count, port or tos", k)
		}
	}
	return o, nil
}

// wireChange reads what a fault sets: durations in ns, shares, bit/s and bytes
// as numbers, or as the sheet writes them.
func wireChange(set map[string]any) (*wire.Change, error) {
	c := &wire.Change{}
	for k, v := range set {
		if m, ok := v.(map[string]any); ok {
			if err := wireChangeOf(c, k, m); err != nil {
				return nil, err
			}
			continue
		}
		n, unit, err := number(v)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", k, err)
		}
		d, share, whole := time.Duration(n), n, int(n)
		if unit == "s" {
			d = time.Duration(n * 1e9)
		}
		switch k {
		case "delay":
			c.Delay = &d
		case "jitter":
			c.Jitter = &d
		case "rate":
			r := int64(n)
			c.Rate = &r
		case "queue":
			c.Queue = &wire.Queue{Bytes: int64(n)}
			if unit == "s" {
				c.Queue = &wire.Queue{Time: d}
			}
		case "loss":
			c.Loss = &wire.Loss{P: share}
		case "reorder":
			c.Reorder = &wire.Reorder{P: share}
		case "duplicate":
			c.Duplicate = &share
		case "corrupt":
			c.Corrupt = &share
		case "mtu":
			c.MTU = &whole
		default:
			return nil, fmt.Errorf("a wire has no %q", k)
		}
	}
	return c, nil
}

func wireChangeOf(c *wire.Change, k string, m map[string]any) error {
	v := map[string]float64{}
	by := time.Duration(0)
	for name, x := range m {
		n, unit, err := number(x)
		if err != nil {
			return fmt.Errorf("%s.%s: %w", k, name, err)
		}
		v[name] = n
		if name == "by" {
			by = time.Duration(n)
			if unit == "s" {
				by = time.Duration(n * 1e9)
			}
		}
	}
	switch k {
	case "loss":
		bad, given := v["bad"]
		if !given {
			bad = 1
		}
		c.Loss = &wire.Loss{GilbertElliott: wire.GilbertElliott{P: v["p"], R: v["r"], H: 1 - bad, K: 1 - v["good"]}}
	case "reorder":
		c.Reorder = &wire.Reorder{P: v["share"], Extra: by}
	default:
		return fmt.Errorf("%s takes no map", k)
	}
	return nil
}

// number is a value as JSON or as the sheet wrote it, with its unit if it says
// one.
func number(v any) (float64, string, error) {
	switch x := v.(type) {
	case float64:
		return x, "", nil
	case string:
		q, err := expr.ParseQuantity(x)
		if err != nil {
			return 0, "", err
		}
		return q.V, q.Unit.String(), nil
	}
	return 0, "", fmt.Errorf("%v is no number", v)
}
