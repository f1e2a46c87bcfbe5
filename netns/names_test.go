package netns

import (
	"testing"

	"github.com/vishvananda/netlink"
	"pgregory.net/rapid"
)

// TestNamesThatPassAreTakenByTheKernel asks the kernel about each name that
// the check lets through, and PortName of each that it does not.
func TestNamesThatPassAreTakenByTheKernel(t *testing.T) {
	h := newHost(t, "client")
	err := h.withNetlink(func(n *netlink.Handle) error {
		if err := n.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "first"}, PeerName: "a-peer's-name"}); err != nil {
			return err
		}
		dev, err := n.LinkByName("first")
		if err != nil {
			return err
		}
		rapid.Check(t, func(t *rapid.T) {
			name := rapid.OneOf(
				rapid.StringOfN(rapid.RuneFrom([]rune("aZ0-_.:/% \t\x00\x7f\u00a0àäß☃\x85")), 0, 20, 20),
				rapid.String(),
				rapid.SampledFrom([]string{"", ".", "..", "lo", "all", "default", "%d", "eth%d", "a:0", "à", "voilà", "hä"}),
			).Draw(t, "name")
			port := PortName(name)
			if err := checkInterfaceName(port); err != nil {
				t.Fatalf("PortName(%q): %v", name, err)
			}
			if checkInterfaceName(name) == nil && port != name {
				t.Fatalf("PortName(%q) = %q, though the name is good", name, port)
			}
			if err := n.LinkSetName(dev, port); err != nil {
				t.Fatalf("the kernel refuses %q (of %q): %v", port, name, err)
			}
			if _, err := n.LinkByName(port); err != nil {
				t.Fatalf("%q is not there by its name: %v", port, err)
			}
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
