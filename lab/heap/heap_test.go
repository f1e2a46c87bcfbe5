package heap

import (
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"testing"
)

var kept [][]byte

// In a process of its own, since it changes the collector of all.
func TestAQuietHeapIsCollectedAsItGrowsAndStaysBounded(t *testing.T) {
	if os.Getenv("HEAP_TEST") == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), "HEAP_TEST=1", Env+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	Inherit()
	if debug.SetGCPercent(-1) != -1 {
		t.Fatal("the collector runs by the clock")
	}
	var m runtime.MemStats
	for range 40 { // what is dropped is collected
		for range 1000 {
			kept = append(kept[:0], make([]byte, 10<<10))
		}
	}
	runtime.ReadMemStats(&m)
	if m.NumGC == 0 || m.Sys > 200<<20 {
		t.Errorf("%d collections, %d MB of memory after 400 MB of garbage", m.NumGC, m.Sys>>20)
	}
	kept = nil
	before := m.NumGC
	for range 100 { // what is kept makes room for itself: no collecting without end
		kept = append(kept, make([]byte, 1<<20))
	}
	runtime.ReadMemStats(&m)
	if n := m.NumGC - before; n > 30 {
		t.Errorf("%d collections while the heap grew to 100 MB", n)
	}
}
