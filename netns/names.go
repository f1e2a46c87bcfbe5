package netns

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"strings"

	"golang.org/x/sys/unix"
)

// maxInterfaceName is the longest name of an interface, in bytes (IFNAMSIZ
// counts the terminating zero).
const maxInterfaceName = unix.IFNAMSIZ - 1

// checkInterfaceName applies the kernel's dev_valid_name (net/core/dev.c),
// which answers EINVAL only, and refuses the names with a meaning of their own.
func checkInterfaceName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("a link needs a name: it is its interface's name inside the hosts")
	case len(name) > maxInterfaceName:
		return fmt.Errorf("link %s: its name is its interface's name and may have at most %d bytes, not %d", name, maxInterfaceName, len(name))
	case name == "." || name == ".." || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7f }) || strings.ContainsAny(name, "/:%") || hasByte(name, 0xa0):
		return fmt.Errorf("link %q: an interface's name has no blanks, slashes, colons or percent signs", name)
	case name == "lo" || name == "all" || name == "default":
		return fmt.Errorf("link %s: that name has a meaning of its own inside a host; choose another", name)
	}
	return nil
}

// hasByte looks for a byte, inside of a rune's encoding too: the kernel takes
// Latin-1's no-break space, 0xa0, for a blank (lib/ctype.c), as in "à".
func hasByte(s string, b byte) bool { return strings.IndexByte(s, b) >= 0 }

// PortName is the interface inside a link's middle that faces the host: the
// host's name where it can name an interface, else its beginning and a hash,
// the same in each run.
func PortName(host string) string {
	if checkInterfaceName(host) == nil {
		return host
	}
	clean := strings.Map(func(r rune) rune {
		if r < 0x21 || r > 0x7e || strings.ContainsRune("/:%.", r) {
			return '_'
		}
		return r
	}, host)
	sum := sha256.Sum256([]byte(host))
	const keep = maxInterfaceName - 7
	if len(clean) > keep {
		clean = clean[:keep]
	}
	return clean + "-" + hex.EncodeToString(sum[:3])
}

// hardwareAddr is a locally administered unicast address fixed by the link and
// the end of it, so that captures of two runs can be compared.
func hardwareAddr(link, end string) net.HardwareAddr {
	sum := sha256.Sum256([]byte("link\x00" + link + "\x00" + end))
	mac := net.HardwareAddr(sum[:6:6])
	mac[0] = mac[0]&^0x01 | 0x02
	return mac
}
