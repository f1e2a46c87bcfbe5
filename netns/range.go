package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
)

// Range is where all addresses of links lie: link i has 10.77.i.0/24, from 1
// to 250.
var Range = netip.MustParsePrefix("10.77.0.0/16")

// SpoofedSources are addresses that no link has. A flooder's SYNs come from
// there: hosts route them back to the flooder's host, which drops what comes,
// silently, since it neither has them nor forwards (ip_error, net/ipv4/route.c).
var SpoofedSources = netip.MustParsePrefix("10.77.252.0/22")

// LinkMACs are the hardware addresses that Connect gives the two ends of a link
// of this name.
func LinkMACs(name string) (a, b net.HardwareAddr) {
	return hardwareAddr(name, "a"), hardwareAddr(name, "b")
}

// ErrFirstNamespace: this is the network namespace that the machine booted
// with.
var ErrFirstNamespace = errors.New("this is the machine's first network namespace")

// sysctlsOfCore is a folder that each network namespace has, and one file in it
// that only the first one has: netns_core_table is everybody's, net_core_table
// is registered for init_net alone (net/core/sysctl_net_core.c).
const (
	sysctlsOfCore = "/proc/sys/net/core"
	onlyInFirst   = sysctlsOfCore + "/netdev_max_backlog"
	inEach        = sysctlsOfCore + "/somaxconn"
)

// NotFirst is nil where the calling thread is in a network namespace that is
// not the machine's first one. What cannot be found out is an error too.
func NotFirst() error {
	if _, err := os.Stat(inEach); err != nil {
		return fmt.Errorf("it cannot be told which network namespace this is: %w", err)
	}
	_, err := os.Stat(onlyInFirst)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err == nil:
		return ErrFirstNamespace
	}
	return fmt.Errorf("it cannot be told which network namespace this is: %w", err)
}
