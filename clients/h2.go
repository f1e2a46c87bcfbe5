package clients

import (
	"context"
	"io"
	"net/http"
	"strings"

	"tcplab/lab/socket"
)

// speakH2 makes a transport speak HTTP/2 in cleartext. Its health check is off
// unless asked for, as it is for net/http's users: SendPingTimeout is how long
// a connection may be silent until a PING is sent, and 0 means for ever.
func (w *web) speakH2(t *http.Transport) {
	t.Protocols = new(http.Protocols)
	t.Protocols.SetUnencryptedHTTP2(true)
	t.HTTP2 = &http.HTTP2Config{SendPingTimeout: w.cfg.HTTP2.ReadIdle, PingTimeout: w.cfg.HTTP2.PingTimeout}
	if w.cfg.Reuse == Pooled {
		t.IdleConnTimeout = w.cfg.Pool.Idle
	}
}

// h2Reason is the class of an error that only HTTP/2 has. net/http's own types
// for them are not exported, so their texts have to do.
func h2Reason(err error) string {
	text := err.Error()
	switch {
	case !strings.Contains(text, "http2:") && !strings.Contains(text, "stream error"):
		return ""
	case strings.Contains(text, "client connection lost"): // errClientConnUnusable after a PING without an answer
		return "ping_timeout"
	case strings.Contains(text, "GOAWAY"):
		return "goaway"
	case strings.Contains(text, "stream error"):
		return "stream_reset"
	}
	return ""
}

// hold keeps one stream open until ctx ends: a request whose body does not
// end. A stream that breaks is told, and not opened again.
func (w *web) hold(ctx context.Context, t *http.Transport) {
	body, never := io.Pipe()
	defer never.Close()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+w.cfg.To[0]+"/", body)
	if err != nil {
		return
	}
	opened := socket.Nanotime()
	resp, err := (&http.Client{Transport: t}).Do(req)
	if err == nil {
		resp.Body.Close()
	}
	if ctx.Err() != nil {
		return
	}
	now, why := socket.Nanotime(), "eof"
	if err != nil {
		why = reason(err)
	}
	w.account(func(m *meter) { m.lost(now, opened, why) })
}
