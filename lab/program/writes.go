package program

import (
	"fmt"
	"time"

	"tcplab/clients"
	"tcplab/lab/sheet"
	"tcplab/workloads"
)

// writesOf is what a client has that writes its requests in parts; nil for
// every other. Connections are numbered anew, in order of their first exchange:
// a trace may have any numbers.
func writesOf(c sheet.Client) (*clients.Writes, error) {
	w := c.Workload
	if w.Kind != workloads.Writes {
		return nil, nil
	}
	out := &clients.Writes{Send: extra(c.Extra).word("send", clients.InParts)}
	if w.Trace == "" {
		gap := extra(w.Extra).duration("gap")
		parts, _ := w.Extra["parts"].([]any)
		for i, v := range parts {
			out.Parts = append(out.Parts, clients.Part{Bytes: extra{"": v}.count("", 0), At: time.Duration(i) * gap})
		}
		return out, nil
	}
	t, err := workloads.ParseTrace("trace", []byte(w.Trace))
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	out.Period = t.Length
	number := map[int]int{}
	for _, x := range t.Exchanges {
		if _, known := number[x.Connection]; !known {
			number[x.Connection] = len(number)
		}
		to := clients.Exchange{Start: x.Start, Connection: number[x.Connection], Answer: x.Answer}
		for _, p := range x.Parts {
			to.Parts = append(to.Parts, clients.Part{Bytes: p.Bytes, At: p.At})
		}
		out.Trace = append(out.Trace, to)
	}
	return out, nil
}
