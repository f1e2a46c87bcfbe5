package sheet

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// twoForms are pieces of one layer, as the short form and as the general one.
type twoForms struct{ wire, server, client, workload string }

func (f twoForms) short() string {
	var parts []string
	for _, p := range []struct{ key, val string }{{"wire", f.wire}, {"server", f.server}, {"client", f.client}, {"workload", f.workload}} {
		if p.val != "" {
			parts = append(parts, p.key+": {"+p.val+"}")
		}
	}
	return strings.Join(parts, ", ")
}

// general is written by hand: nothing of the rewriting is used.
func (f twoForms) general(whole bool) string {
	var parts []string
	between, on, to := "", "", ""
	if whole {
		parts = append(parts, "hosts: {client: {}, server: {}}")
		between, on, to = "between: [client, server], ", "on: server, ", "on: client, to: server, "
	}
	if whole || f.wire != "" {
		parts = append(parts, "links: {wire: {"+between+"wire: {"+f.wire+"}}}")
	}
	if whole || f.server != "" {
		parts = append(parts, "servers: {server: {"+strings.TrimSuffix(on+f.server, ", ")+"}}")
	}
	if whole || f.client != "" || f.workload != "" {
		client := to + f.client
		if f.workload != "" {
			client = strings.TrimSuffix(client, ", ")
			if client != "" {
				client += ", "
			}
			client += "workload: {" + f.workload + "}"
		}
		parts = append(parts, "clients: {client: {"+strings.TrimSuffix(client, ", ")+"}}")
	}
	return strings.Join(parts, ", ")
}

func forms(whole bool) *rapid.Generator[twoForms] {
	return rapid.Custom(func(t *rapid.T) twoForms {
		some := func(label string, all ...string) string {
			return strings.Join(rapid.SliceOfNDistinct(rapid.SampledFrom(all), 0, len(all), func(s string) string { return strings.SplitN(s, ":", 2)[0] }).Draw(t, label), ", ")
		}
		f := twoForms{
			wire:     some("wire", "delay: 5ms", "loss: 1%", "towards: {client: {loss: 2%}}", "loss: {p: 1%, r: 20%}", "mtu: 1400"),
			client:   some("client", "reuse: pool", "reuse: none", "pool: {size: 8}", "options: {TCP_NODELAY: true}", "options: null", "deadline: 1s"),
			workload: some("workload", "rate: 100/s", "connections: 16", "size: 1KiB"),
			server:   some("server", "workers: 4", "service: 1ms", "backlog: 16"),
		}
		if whole {
			f.server = strings.TrimSuffix("kind: echo, "+f.server, ", ")
			f.client = strings.ReplaceAll(f.client, "options: null", "closes: client")
		}
		return f
	})
}

func TestShortFormIsTheGeneralFormWrittenByHand(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sheet, profile, arm, own := forms(true).Draw(t, "sheet"), forms(false).Draw(t, "profile"), forms(false).Draw(t, "arm"), forms(false).Draw(t, "arm's profile")
		build := func(top, profile, arm, own string) string {
			comma := func(s string) string {
				if s == "" {
					return ""
				}
				return ", " + s
			}
			return fmt.Sprintf("{experiment: x, trial: {duration: 10s}, %s, profiles: {quick: {%s}}, arms: {a: {baseline: true}, b: {profiles: {quick: {%s}}%s}}}", top, profile, own, comma(arm))
		}
		short := build(sheet.short(), profile.short(), arm.short(), own.short())
		general := build(sheet.general(true), profile.general(false), arm.general(false), own.general(false))
		p := rapid.SampledFrom(profileNames).Draw(t, "which")
		x, err := Parse("short", []byte(short), Options{Profile: p})
		if err != nil {
			t.Fatalf("%v\n%s", err, short)
		}
		y, err := Parse("general", []byte(general), Options{Profile: p})
		if err != nil {
			t.Fatalf("%v\n%s", err, general)
		}
		if a, b := alike(x), alike(y); !reflect.DeepEqual(a, b) {
			t.Fatalf("%s\n%s\n%s", short, general, difference(a, b))
		}
	})
}
