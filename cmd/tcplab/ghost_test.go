package main

import (
	"testing"

	"tcplab/lab"
)

// A ping off the write path finds the ghost; behind a blocked write it does
// not. On the virtual clock no busy machine can get in between.
func TestPingOffTheWritePathFindsTheGhost(t *testing.T) {
	u := guestUser(t, true, "slow")
	run := []string{"run", "ghost", "--kernel=guest", "--only", "as_found,off_path"}
	if code, out, errs := u.inGuest(t, nil, run...); code != lab.ExitPass {
		t.Fatalf("exit code %d\n%s%s", code, out, errs)
	}
	run = append(run, "--set", "arms.off_path.clients.publisher.ping_blocks=true")
	if code, out, errs := u.inGuest(t, nil, run...); code != lab.ExitFail {
		t.Fatalf("without its lever: exit code %d\n%s%s", code, out, errs)
	}
}
