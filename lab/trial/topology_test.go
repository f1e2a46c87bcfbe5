package trial

import (
	"net/netip"
	"testing"

	"tcplab/lab/sheet"
)

func routesOf(t *topology, host string) map[string]string {
	m := map[string]string{}
	for _, r := range t.routes[host] {
		m[r.to.String()] = r.via.String() + " " + r.dev
	}
	return m
}

// client – router – server: both ends reach each other through the router, and
// the router needs no route.
func TestHostsBehindARouterReachEachOther(t *testing.T) {
	arm := sheet.Arm{
		Hosts:   []sheet.Host{{Name: "client"}, {Name: "router", Router: &sheet.Router{}}, {Name: "server"}},
		Links:   []sheet.Link{{Name: "lan", A: "client", B: "router"}, {Name: "wan", A: "router", B: "server"}},
		Servers: []sheet.Server{{Name: "web", On: "server"}},
	}
	top, err := layOut(arm)
	if err != nil {
		t.Fatal(err)
	}
	if got := routesOf(top, "client"); len(got) != 1 || got["10.77.2.0/24"] != "10.77.1.2 lan" {
		t.Errorf("client's routes: %v", got)
	}
	if got := routesOf(top, "server"); len(got) != 1 || got["10.77.1.0/24"] != "10.77.2.1 wan" {
		t.Errorf("server's routes: %v", got)
	}
	if got := routesOf(top, "router"); len(got) != 0 {
		t.Errorf("router's routes: %v", got)
	}
	a, err := top.address(arm, "client", sheet.Target{Server: "web"})
	if err != nil || a != netip.MustParseAddr("10.77.2.2") {
		t.Errorf("web is at %v, %v", a, err)
	}
}

// A–B and B–C, B is no router: A must not reach C through it.
func TestAHostThatDoesNotForwardIsNoWayThrough(t *testing.T) {
	top, err := layOut(sheet.Arm{
		Hosts: []sheet.Host{{Name: "a"}, {Name: "b"}, {Name: "c"}},
		Links: []sheet.Link{{Name: "ab", A: "a", B: "b"}, {Name: "bc", A: "b", B: "c"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := routesOf(top, "a"); len(got) != 0 {
		t.Errorf("a has routes: %v", got)
	}
}

func TestAnExtraAddressIsReachedThroughItsHost(t *testing.T) {
	vip := netip.MustParseAddr("10.9.0.1")
	arm := sheet.Arm{
		Hosts: []sheet.Host{{Name: "client"}, {Name: "lb", Middlebox: &sheet.Middlebox{}, Addresses: map[string]netip.Addr{"vip": vip}}, {Name: "broker"}},
		Links: []sheet.Link{{Name: "front", A: "client", B: "lb"}, {Name: "back", A: "lb", B: "broker"}},
	}
	top, err := layOut(arm)
	if err != nil {
		t.Fatal(err)
	}
	if got := routesOf(top, "client"); got["10.9.0.1/32"] != "10.77.1.2 front" || got["10.77.2.0/24"] != "10.77.1.2 front" {
		t.Errorf("client's routes: %v", got)
	}
	a, err := top.address(arm, "client", sheet.Target{Host: "lb", Address: "vip"})
	if err != nil || a != vip {
		t.Errorf("lb.vip is at %v, %v", a, err)
	}
}

func TestTheSheetsOwnRouteReplacesTheComputedOne(t *testing.T) {
	arm := sheet.Arm{
		Hosts: []sheet.Host{
			{Name: "a", Routes: []sheet.Route{{To: "far", Via: "r2"}}},
			{Name: "r1", Router: &sheet.Router{}}, {Name: "r2", Router: &sheet.Router{}}, {Name: "z"},
		},
		Links: []sheet.Link{{Name: "one", A: "a", B: "r1"}, {Name: "two", A: "a", B: "r2"}, {Name: "far", A: "r1", B: "z"}, {Name: "also", A: "r2", B: "z"}},
	}
	top, err := layOut(arm)
	if err != nil {
		t.Fatal(err)
	}
	if got := routesOf(top, "a"); got["10.77.3.0/24"] != "10.77.2.2 two" {
		t.Errorf("a's routes: %v", got)
	}
	arm.Hosts[0].Routes[0].Via = "z"
	if _, err := layOut(arm); err == nil {
		t.Error("a route through a host that is no neighbour")
	}
}
