package sheet

import "fmt"

// NotBuilt names what the experiment asks for and this build cannot run: "client
// kind mqtt is not built yet". It decodes, plans and dry-runs all the same.
func (e *Experiment) NotBuilt() []string {
	var out []string
	add := func(format string, args ...any) {
		s := fmt.Sprintf(format, args...) + " is not built yet"
		if !contains(out, s) {
			out = append(out, s)
		}
	}
	kind := func(role Role, name string) {
		if k := kindOf(role, name); name != "" && k != nil && !k.Built {
			add("%s kind %s", role, name)
		}
	}
	for i := range e.Arms {
		a := &e.Arms[i]
		for _, h := range a.Hosts {
			if h.Middlebox != nil {
				kind(RoleMiddlebox, h.Middlebox.Kind)
			}
			if h.Router != nil {
				kind(RoleMiddlebox, "router")
			}
			if h.Container != "" {
				kind(RoleHost, "container")
			}
			if h.Clock.Offset != 0 || h.Clock.Drift != 0 {
				add("a host's wrong clock (`clock`)")
			}
		}
		for _, s := range a.Servers {
			kind(RoleServer, s.Kind)
		}
		for _, c := range a.Clients {
			kind(RoleClient, c.Kind)
			kind(RoleWorkload, c.Workload.Kind)
		}
		for _, f := range a.Faults {
			if v := verbOf(f.Do); v != nil && !v.Built {
				add("the fault %s", f.Do)
			}
		}
		if len(a.DNS) > 0 {
			add("the lab's resolver (`names`)")
		}
	}
	return out
}
