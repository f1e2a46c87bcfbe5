package clients

import (
	"encoding/json"
	"fmt"

	hdr "github.com/HdrHistogram/hdrhistogram-go"
)

// Counts of requests.
type Counts struct {
	Offered    int64            `json:"offered"`        // that the schedule asked for
	Sent       int64            `json:"sent"`           // begun: a connect() or a write was tried
	OK         int64            `json:"ok"`             // answered
	Failed     int64            `json:"failed"`         // by an error or their deadline
	Lost       int64            `json:"lost,omitempty"` // connections that broke with an error while they had no request
	Unfinished int64            `json:"unfinished"`     // neither when the client ended; offered = ok + failed + unfinished
	Errors     map[string]int64 `json:"errors"`         // failed and lost, by class
}

// Result is what a client counted. Its own counts and the histograms are of
// requests whose intended start lies in the window, whenever they ended; those
// in Total are of the whole trial, warm-up included. Instants are
// CLOCK_MONOTONIC in nanoseconds.
type Result struct {
	Kind string `json:"kind"`
	Counts
	Total Counts `json:"total"`

	Opens           int64            `json:"opens"`               // connect() calls that sent a SYN, whole trial: the kernel's ActiveOpens
	Established     int64            `json:"established"`         // of these
	Stale           int64            `json:"stale"`               // pooled connections that ended while idle, whole trial
	QueueMax        int64            `json:"queue_max,omitempty"` // of kind mqtt: most messages that waited to be sent, whole trial
	FirstError      int64            `json:"first_error"`         // when the first request of the trial failed; 0: none did
	FirstErrorClass string           `json:"first_error_class,omitempty"`
	First           map[string]int64 `json:"first,omitempty"` // when the first one of each class failed

	Acknowledged int64       `json:"acknowledged,omitempty"` // bytes that the server's application has said that it read; of bulk
	Delivered    int64       `json:"delivered,omitempty"`    // bytes that the peer's TCP acknowledged in the window; of bulk that sends
	Succession   *Succession `json:"succession,omitempty"`   // of incarnations

	Wakeups int64 `json:"wakeups,omitempty"` // returns of epoll_wait

	BytesSent           int64 `json:"bytes_sent"` // of the application, headers of its protocol included, whole trial
	BytesReceived       int64 `json:"bytes_received"`
	WindowBytesSent     int64 `json:"window_bytes_sent"` // between the window's two ends
	WindowBytesReceived int64 `json:"window_bytes_received"`

	T0          int64 `json:"t0"`
	WindowStart int64 `json:"window_start"`
	WindowEnd   int64 `json:"window_end"`        // earlier than asked when the client was stopped
	Ended       int64 `json:"ended"`             // when the last request had ended or been given up
	Stopped     bool  `json:"stopped,omitempty"` // ctx ended before the window did

	SamplesLost int64             `json:"samples_lost,omitempty"` // the sink was too slow for
	Options     map[string]string `json:"options"`                // read back from the first connection
	Histograms  Histograms        `json:"histograms"`
}

// Histograms by name, in nanoseconds; those that a kind cannot measure are
// absent. In JSON each is HdrHistogram's compressed V2 encoding in base64.
//
//	latency       ok, from the intended start to the answer's last byte
//	service       ok, from the call of connect() or write() to the answer's last byte
//	failure       failed, from the intended start
//	connect       from the call of connect() to an established connection
//	connect.call  inside the non-blocking connect()
//	firstbyte     ok, from the intended start to the answer's first byte
//	lag           call − max(intended start, moment a slot became free): the generator's own
//	lag_excused   the same, while connect() took more than half of the client's CPU: the subject's
type Histograms map[string]*hdr.Histogram

// MarshalJSON writes each histogram as HdrHistogram's own encoding.
func (hs Histograms) MarshalJSON() ([]byte, error) {
	m := make(map[string]string, len(hs))
	for name, h := range hs {
		b, err := h.Encode(hdr.V2CompressedEncodingCookieBase)
		if err != nil {
			return nil, fmt.Errorf("histogram %s: %w", name, err)
		}
		m[name] = string(b)
	}
	return json.Marshal(m)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (hs *Histograms) UnmarshalJSON(b []byte) error {
	var m map[string]string
	if err := json.Unmarshal(b, &m); err != nil {
		return err
	}
	*hs = make(Histograms, len(m))
	for name, s := range m {
		h, err := hdr.Decode([]byte(s))
		if err != nil {
			return fmt.Errorf("histogram %s: %w", name, err)
		}
		(*hs)[name] = h
	}
	return nil
}
