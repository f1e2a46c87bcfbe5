package netns

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// RouterConfig is what a Linux router does besides forwarding. It is made into
// nftables rules without the program nft; only NFT needs that. The zero value
// tracks nothing.
type RouterConfig struct {
	// NAT masquerades what leaves by this interface.
	NAT string
	// Invalid says what becomes of packets that conntrack calls invalid: drop,
	// accept, or nothing about them.
	Invalid string
	// Track has conntrack on, though no rule needs it.
	Track bool
	// NoTrack keeps all packets from it.
	NoTrack bool
	// NFT are rules of the user's own, as nft -f reads them.
	NFT string
}

// routerTable and bypassTable are the tables of ours.
const (
	routerTable = "router"
	bypassTable = "bypass"
)

// ErrNoNFT says that rules in nft's own language need its program.
var ErrNoNFT = errors.New("rules in nft's own language need the program nft (Debian: apt-get install nftables); nat, invalid, track and notrack do without")

// Route makes a router of the host.
func (h *Host) Route(cfg RouterConfig) error {
	err := h.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		t := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: routerTable})
		if cfg.NoTrack {
			for _, hook := range []*nftables.ChainHook{nftables.ChainHookPrerouting, nftables.ChainHookOutput} {
				ch := filterChain(c, t, "untracked_"+fmt.Sprint(*hook), hook, nftables.ChainPriorityRaw)
				c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: []expr.Any{&expr.Notrack{}}})
			}
		}
		if cfg.Invalid != "" || cfg.Track {
			ch := filterChain(c, t, "forward", nftables.ChainHookForward, nftables.ChainPriorityFilter)
			verdict := expr.VerdictAccept
			switch cfg.Invalid {
			case "drop":
				verdict = expr.VerdictDrop
			case "", "accept":
			default:
				return fmt.Errorf("invalid: %q: write accept or drop", cfg.Invalid)
			}
			c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: append(ctState(expr.CtStateBitINVALID), &expr.Counter{}, &expr.Verdict{Kind: verdict})})
		}
		if cfg.NAT != "" {
			ch := c.AddChain(&nftables.Chain{Name: "nat", Table: t, Type: nftables.ChainTypeNAT,
				Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource})
			c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: append(leavesBy(cfg.NAT), &expr.Counter{}, &expr.Masq{})})
		}
		return c.Flush()
	})
	if err != nil {
		return fmt.Errorf("host %s: router's rules: %w", h.Name, err)
	}
	if strings.TrimSpace(cfg.NFT) == "" {
		return nil
	}
	return h.nft(cfg.NFT)
}

// nft loads rules by nft's program.
func (h *Host) nft(text string) error {
	path, err := exec.LookPath("nft")
	if err != nil {
		return fmt.Errorf("host %s: %w", h.Name, ErrNoNFT)
	}
	cmd := exec.Command(path, "-f", "-")
	var out strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(text), &out, &out
	if err = h.Start(cmd); err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return fmt.Errorf("host %s: nft: %w: %s", h.Name, err, strings.TrimSpace(out.String()))
	}
	return nil
}

func filterChain(c *nftables.Conn, t *nftables.Table, name string, hook *nftables.ChainHook, p *nftables.ChainPriority) *nftables.Chain {
	return c.AddChain(&nftables.Chain{Name: name, Table: t, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: p})
}

// ctState matches packets in one of the states.
func ctState(bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

// leavesBy matches the interface that a packet leaves by.
func leavesBy(dev string) []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, dev)
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: name},
	}
}

// BypassFlow is a TCP flow as it is on both sides of the router. Outer is the
// client's address outside: its own where there is no NAT.
type BypassFlow struct{ Client, Server, Outer netip.AddrPort }

// Bypass is another path around the tracker.
type Bypass struct {
	// NAT is the router's outer link; "" where it does not translate.
	NAT string
	// Flows are those whose addresses the other path translates too, as a
	// second NAT would that has been told of them. Without NAT they need not
	// be named: everything goes past the tracker.
	Flows []BypassFlow
}

// priorityBypass is before raw, where conntrack begins; after it comes what
// NAT would have done.
var (
	priorityBypass = nftables.ChainPriorityRef(-310)
	priorityLate   = nftables.ChainPriorityRef(90)
)

// StartBypass lets packets take another path: the tracker does not see them
// (notrack), and what a NAT would have rewritten is rewritten without it.
func (h *Host) StartBypass(b Bypass) error {
	err := h.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		t := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: bypassTable})
		pre := filterChain(c, t, "past", nftables.ChainHookPrerouting, priorityBypass)
		if b.NAT == "" {
			c.AddRule(&nftables.Rule{Table: t, Chain: pre, Exprs: []expr.Any{&expr.Notrack{}}})
			return c.Flush()
		}
		post := filterChain(c, t, "translated", nftables.ChainHookPostrouting, priorityLate)
		for _, f := range b.Flows {
			there, back := tcpFlow(f.Client, f.Server), tcpFlow(f.Server, f.Outer)
			c.AddRule(&nftables.Rule{Table: t, Chain: pre, Exprs: append(there, &expr.Notrack{})})
			c.AddRule(&nftables.Rule{Table: t, Chain: pre, Exprs: append(append(back, &expr.Notrack{}), rewriteTo(f.Client, ipDst, portDst)...)})
			c.AddRule(&nftables.Rule{Table: t, Chain: post, Exprs: append(tcpFlow(f.Client, f.Server), rewriteTo(f.Outer, ipSrc, portSrc)...)})
		}
		return c.Flush()
	})
	if err != nil {
		return fmt.Errorf("host %s: bypass: %w", h.Name, err)
	}
	return nil
}

// EndBypass brings the packets back.
func (h *Host) EndBypass() error {
	err := h.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		c.DelTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: bypassTable})
		return c.Flush()
	})
	if err != nil {
		return fmt.Errorf("host %s: end of the bypass: %w", h.Name, err)
	}
	return nil
}

// Offsets in the headers of IPv4 and TCP.
const (
	ipProto  = 9
	ipSum    = 10
	ipSrc    = 12
	ipDst    = 16
	portSrc  = 0
	portDst  = 2
	tcpSum   = 16
	protoTCP = 6
)

// tcpFlow matches one direction of a TCP flow.
func tcpFlow(src, dst netip.AddrPort) []expr.Any {
	var out []expr.Any
	match := func(base expr.PayloadBase, at uint32, want []byte) {
		out = append(out,
			&expr.Payload{DestRegister: 1, Base: base, Offset: at, Len: uint32(len(want))},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: want})
	}
	match(expr.PayloadBaseNetworkHeader, ipProto, []byte{protoTCP})
	match(expr.PayloadBaseNetworkHeader, ipSrc, src.Addr().AsSlice())
	match(expr.PayloadBaseNetworkHeader, ipDst, dst.Addr().AsSlice())
	match(expr.PayloadBaseTransportHeader, portSrc, binaryutil.BigEndian.PutUint16(src.Port()))
	match(expr.PayloadBaseTransportHeader, portDst, binaryutil.BigEndian.PutUint16(dst.Port()))
	return out
}

// rewriteTo writes an address and a port, and keeps the checksums right.
func rewriteTo(to netip.AddrPort, addrAt, portAt uint32) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: to.Addr().AsSlice()},
		&expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: addrAt, Len: 4,
			CsumType: expr.CsumTypeInet, CsumOffset: ipSum, CsumFlags: unix.NFT_PAYLOAD_L4CSUM_PSEUDOHDR},
		&expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(to.Port())},
		&expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: portAt, Len: 2,
			CsumType: expr.CsumTypeInet, CsumOffset: tcpSum},
	}
}
