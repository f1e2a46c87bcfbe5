package trial

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"tcplab/lab/clock"
	"tcplab/lab/program"
)

// waits is how long each agent waits for a CPU in the measuring window, s, by
// agent. The generator knows by itself how late it is; a server does not, and
// its wait stands in the client's latency as if TCP had to do with it.
func (o *one) waits(ctx context.Context, m *measured) {
	if clock.SleepUntil(ctx, m.from) != nil {
		return
	}
	before := map[int]float64{}
	for _, p := range o.st.procs {
		before[p.PID()] = waited(p.PID())
	}
	_ = clock.SleepUntil(ctx, m.to) // or the window's early end
	waits := map[string]float64{}
	for _, p := range o.st.procs {
		if b, ok := before[p.PID()]; ok {
			waits[p.Job.Name] = max(0, waited(p.PID())-b)
		}
	}
	m.mu.Lock()
	m.waits = waits
	m.mu.Unlock()
}

// waited is how long the threads of a process have waited on run queues so
// far, s (Documentation/scheduler/sched-stats.rst: the second figure); 0 where
// the kernel does not count it.
func waited(pid int) float64 {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	total := 0.0
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended
		}
		if fields := strings.Fields(string(b)); len(fields) > 1 {
			ns, _ := strconv.ParseFloat(fields[1], 64)
			total += ns / 1e9
		}
	}
	return total
}

// maxWait is the share of a latency that may be a wait for a CPU, on average.
// It is a bound for what cannot be told apart from the subject any more, and
// wide: all threads of a process are in its wait, also those that no request
// waited for.
const maxWait = 0.25

// validateWaits holds what the servers waited for a CPU, on average of the
// client's requests, against the latencies that an expectation uses. Waits that
// come now and then are the percentiles' to show, and the client's own are its
// lag; this is a machine too busy for the whole trial.
func (o *one) validateWaits(name string, r *program.ClientResult, used []use, m *measured) {
	if r.OK == 0 {
		return
	}
	for _, p := range o.st.role(program.RoleServer) {
		each := m.waits[p.Job.Name] / float64(r.OK)
		for _, u := range used {
			q, ok := o.out.Metrics[name+"."+u.metric]
			if !ok || u.owner != "" && u.owner != name || each <= maxWait*q.Value {
				continue
			}
			m.reason(fmt.Errorf("server %s waited for a CPU, %.3g ms a request on average, more than a quarter of the %.3g ms of the %s that an expectation uses: the machine was too busy", p.Job.Name, each*1e3, q.Value*1e3, u.metric))
			break
		}
	}
}
