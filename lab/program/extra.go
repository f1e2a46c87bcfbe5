package program

import (
	"cmp"
	"encoding/json"
	"time"

	"tcplab/clients"
	"tcplab/lab/sheet"
)

// extra reads the keys that only one kind has. They reach an agent as JSON:
// numbers are float64 there, and durations nanoseconds.
type extra map[string]any

func (e extra) number(key string, absent float64) float64 {
	switch v := e[key].(type) {
	case float64:
		return v
	case int:
		return float64(v)
	case time.Duration:
		return float64(v)
	case json.Number:
		f, err := v.Float64()
		if err == nil {
			return f
		}
	}
	return absent
}

func (e extra) duration(key string) time.Duration { return time.Duration(e.number(key, 0)) }
func (e extra) count(key string, absent int) int  { return int(e.number(key, float64(absent))) }

func (e extra) flag(key string) bool {
	b, _ := e[key].(bool)
	return b
}

func (e extra) word(key, absent string) string {
	s, _ := e[key].(string)
	return cmp.Or(s, absent)
}

// ownKeys gives a client's configuration what only its kind has.
func ownKeys(cfg *clients.Config, c sheet.Client) {
	e := extra(c.Extra)
	switch c.Kind {
	case clients.Echo:
		h, _ := c.Extra["heartbeat"].(map[string]any)
		cfg.Heartbeat = clients.Heartbeat{Every: extra(h).duration("every"), Timeout: extra(h).duration("timeout")}
		cfg.Awaits = e.count("awaits", 0)
	case clients.Bulk:
		cfg.Flows = clients.Flows{Count: e.count("flows", 1), Receive: e.flag("receive"), Acks: e.flag("acks")}
	case clients.Incarnations:
		cfg.Outrun = clients.Outrun{Ahead: int64(e.count("ahead", 0)), Most: int64(e.count("most", 0)), Chunk: e.count("chunk", 0), TOS: e.count("tos", 0), Waits: e.flag("waits")}
	case clients.H2:
		cfg.HTTP2 = clients.HTTP2{ReadIdle: e.duration("read_idle"), PingTimeout: e.duration("ping_timeout"), Streams: e.count("streams", 0)}
	case clients.MQTT:
		cfg.Relay = clients.Relay{
			Library: e.word("library", clients.Own), Name: c.Name,
			KeepAlive: e.duration("keepalive"), PingTimeout: e.duration("ping_timeout"), PingBlocks: e.flag("ping_blocks"),
			QoS: e.count("qos", 1), Queue: e.count("queue", 0), Topic: extra(c.Workload.Extra).word("topic", "t"),
		}
	}
}
