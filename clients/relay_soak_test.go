//go:build soak

package clients_test

import (
	"testing"
	"time"

	"tcplab/clients"
)

// It failed once in five runs of the whole suite, for a reason that is not
// known: the event did not come within 20 s of a busy machine's time. What it
// is about holds in every ordinary run on the virtual clock, where the ghost
// experiment has the same arm with and without its lever.
func TestPingOffTheWritePathFindsAPeerThatDoesNotRead(t *testing.T) {
	gate(t)
	r, k := stalled(t, clients.Relay{KeepAlive: time.Second, PingTimeout: 200 * time.Millisecond}, time.Minute,
		func(k *kept) bool { return len(k.named("failing")) > 0 })
	broken := k.named("broken")
	if len(broken) == 0 || broken[0].fields["class"] != "ping_timeout" || r.Errors["ping_timeout"] == 0 {
		t.Errorf("broken %v, errors %v", broken, r.Errors)
	}
}
