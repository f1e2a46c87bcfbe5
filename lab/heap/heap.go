// Package heap keeps Go's collector from running by the clock.
//
// The runtime collects at the latest every two minutes (runtime/proc.go,
// forcegcperiod), whether anything was allocated or not. On the virtual clock
// that is what idle time costs: five days are 3,600 collections in each of some
// ten processes, half a minute of wall time for nothing.
package heap

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// least is the heap below which nothing is collected.
const least = 8 << 20

// Quiet lets this process collect as it would by default, when the heap has
// doubled since the last time, but never because time has passed.
func Quiet() {
	debug.SetGCPercent(-1) // no collection by the clock, and none by growth
	grow()
}

// Env says to the lab's own programs that their heaps are to be quiet. It is
// not GOGC=off, which a user's own program would heed without the rest.
const Env = "TCPLAB_QUIET_HEAP"

// Inherit is Quiet where the environment asks for it.
func Inherit() {
	if os.Getenv(Env) != "" {
		Quiet()
	}
}

// mark dies in every collection, and so tells of it.
type mark struct{ _ [16]byte }

// grow bounds memory by twice what lives now: reaching it is the only reason
// left to collect.
func grow() {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/total:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/unused:bytes"},
		{Name: "/memory/classes/heap/free:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(s)
	live, rest := s[0].Value.Uint64(), s[1].Value.Uint64()
	for _, heap := range s[2:] {
		rest -= min(rest, heap.Value.Uint64())
	}
	// What is left is what the limit counts besides the heap: stacks and the
	// runtime's own.
	debug.SetMemoryLimit(int64(max(2*live, live+least) + rest))
	runtime.SetFinalizer(new(mark), func(*mark) { grow() })
}
