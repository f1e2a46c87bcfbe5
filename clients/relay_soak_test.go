//go:build soak

package clients_test

import (
	"testing"
	"time"

	"tcplab/clients"
)

// Its real timers need a machine that keeps up; on the virtual clock the ghost
// experiment claims the same in every test run.
func TestPingOffTheWritePathFindsAPeerThatDoesNotRead(t *testing.T) {
	gate(t)
	r, k := stalled(t, clients.Relay{KeepAlive: time.Second, PingTimeout: 200 * time.Millisecond}, time.Minute,
		func(k *kept) bool { return len(k.named("failing")) > 0 })
	broken := k.named("broken")
	if len(broken) == 0 || broken[0].fields["class"] != "ping_timeout" || r.Errors["ping_timeout"] == 0 {
		t.Errorf("broken %v, errors %v", broken, r.Errors)
	}
}
