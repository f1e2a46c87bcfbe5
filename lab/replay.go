package lab

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"tcplab/lab/guest"
	"tcplab/lab/guest/kernel"
	"tcplab/lab/sheet"
	"tcplab/results"
)

// Replayed is how a second run of a record came out.
type Replayed struct {
	Dir    string // of the record
	Was    string // its digest
	Is     string // the digest now
	Trials int
	// Where the two differ first, by trial; empty if they are equal.
	Differences []Difference
	// Doubts are why a difference need not surprise.
	Doubts []string
}

// Difference is the first place where a trial's file differs.
type Difference struct {
	Trial string
	File  string
	Text  string // the place with its neighbours, from both runs
}

// Replay runs a record again, from nothing but the record, and compares what
// both left to the byte.
func Replay(ctx context.Context, opt RunOptions, what string) (*Replayed, error) {
	dir, err := results.Find(opt.Results, what)
	if err != nil {
		return nil, &Error{ExitUsage, err}
	}
	old, err := results.Load(dir)
	if err != nil {
		return nil, &Error{ExitUsage, err}
	}
	if old.Ran.Kernel != OnGuest || old.Ran.Clock != guest.Virtual {
		return nil, &Error{ExitUsage, fmt.Errorf("%s ran on the %s kernel and the %s clock, where no two runs are equal: replay is for the virtual clock", dir, old.Ran.Kernel, old.Ran.Clock)}
	}
	k, err := kernel.Find()
	if err != nil {
		return nil, &Error{ExitLacks, err}
	}
	opt.File, opt.Text = "sheet.yaml", []byte(old.Sheet)
	var swept bool
	opt.Only, swept = armsOf(old)
	opt.Sweep = swept
	e, err := sheet.Parse(opt.File, opt.Text, sheet.Options{Kernel: OnGuest, Clock: old.Ran.Clock, Only: opt.Only, Sweep: opt.Sweep})
	if err != nil {
		return nil, fmt.Errorf("the record's sheet: %w", err)
	}
	plan, err := NewPlan(e, old.Seeds.Run, max(len(old.Seeds.Pairs), 1), opt.Sweep)
	if err != nil {
		return nil, err
	}
	plan.how = how{asked: old.Ran, ran: old.Ran, kernel: k}
	tmp, err := os.MkdirTemp(opt.Results, ".replay-")
	if err != nil {
		return nil, &Error{ExitLacks, fmt.Errorf("replay's folder: %w", err)}
	}
	defer os.RemoveAll(tmp)
	now := &results.Run{Arms: map[string]results.Arm{}}
	opt.Watch.Plan(plan)
	err = inGuests(ctx, plan, opt, tmp, now)
	opt.Watch.Close()
	if err != nil {
		return nil, &Error{ExitInvalid, err}
	}
	out := &Replayed{Dir: dir, Was: old.Digest, Is: results.Digest(inOrder(plan, now)), Trials: len(plan.Trials)}
	out.Doubts = doubts(old, now)
	for _, t := range inOrder(plan, old) {
		again, ok := numbered(now, t.Number)
		if !ok {
			continue
		}
		d, err := compareTrials(dir, tmp, t, again)
		if err != nil {
			return nil, err
		}
		out.Differences = append(out.Differences, d...)
	}
	return out, nil
}

// Equal says whether both runs left the same bytes.
func (r *Replayed) Equal() bool { return r.Was == r.Is }

// armsOf are the arms of a record by the names in the sheet, and whether they
// are points of a sweep.
func armsOf(r *results.Run) (names []string, swept bool) {
	for name := range r.Arms {
		base, _, point := strings.Cut(name, "[")
		swept = swept || point
		if !slices.Contains(names, base) {
			names = append(names, base)
		}
	}
	return names, swept
}

// inOrder is a run's trials in the plan's order.
func inOrder(p *Plan, r *results.Run) []results.Trial {
	var all []results.Trial
	for _, t := range p.Trials {
		if x, ok := numbered(r, t.Number); ok {
			all = append(all, x)
		}
	}
	return all
}

func numbered(r *results.Run, n int) (results.Trial, bool) {
	for _, a := range r.Arms {
		for _, t := range a.Trials {
			if t.Number == n {
				return t, true
			}
		}
	}
	return results.Trial{}, false
}

func doubts(old, now *results.Run) []string {
	var out []string
	was, is := old.Environment, now.Environment
	if was.GuestKernel != is.GuestKernel {
		out = append(out, fmt.Sprintf("the record is of another build of the guest kernel (%s, this is %s)", was.GuestKernel, is.GuestKernel))
	}
	if was.Go != is.Go || was.Version != is.Version {
		out = append(out, fmt.Sprintf("the record is of another tcplab (%s with %s, this is %s with %s)", was.Version, was.Go, is.Version, is.Go))
	}
	for _, why := range []string{was.NotRepeatable, is.NotRepeatable} {
		if why != "" {
			out = append(out, why)
		}
	}
	return out
}

// compareTrials finds, for each file that differs, the first place.
func compareTrials(was, is string, old, now results.Trial) ([]Difference, error) {
	var out []Difference
	digests := map[string]string{}
	for _, f := range now.Files {
		digests[f.Name] = f.SHA256
	}
	name := fmt.Sprintf("trial %d (%s)", old.Number, old.Arm)
	for _, f := range old.Files {
		if f.Name == results.SocketsFile || digests[f.Name] == f.SHA256 {
			continue
		}
		d := Difference{Trial: name, File: f.Name}
		if digests[f.Name] == "" {
			d.Text = "it is there in the record only"
			out = append(out, d)
			continue
		}
		a, err := entries(filepath.Join(was, old.Dir, f.Name))
		if err != nil {
			return nil, err
		}
		b, err := entries(filepath.Join(is, now.Dir, f.Name))
		if err != nil {
			return nil, err
		}
		d.Text = firstDifference(a, b)
		out = append(out, d)
	}
	return out, nil
}

// entries takes a file apart into what a reader would point at: packets, or
// lines.
func entries(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var r io.Reader = f
	switch {
	case strings.HasSuffix(path, ".pcapng"):
		return packets(f)
	case strings.HasSuffix(path, ".gz"):
		z, err := gzip.NewReader(f)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		defer z.Close()
		r = z
	}
	text, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return strings.Split(strings.TrimRight(string(text), "\n"), "\n"), nil
}

func packets(r io.Reader) ([]string, error) {
	ng, err := pcapgo.NewNgReader(r, pcapgo.DefaultNgReaderOptions)
	if err != nil {
		return nil, err
	}
	var out []string
	for {
		data, info, opts, err := ng.ReadPacketDataWithOptions()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		iface, _ := ng.Interface(info.InterfaceIndex)
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s %s %s %s", info.Timestamp.UTC().Format("15:04:05.000000000"), iface.Name, packetWords(data, info.Length), strings.Join(opts.Comments, "; "))))
	}
}

// packetWords is a packet in a line, as far as its headers were kept; what
// follows them is given as bytes, so that equal lines are equal packets.
func packetWords(data []byte, length int) string {
	p := gopacket.NewPacket(data, layers.LayerTypeEthernet, gopacket.NoCopy)
	ip, _ := p.NetworkLayer().(*layers.IPv4)
	tcp, _ := p.TransportLayer().(*layers.TCP)
	if ip == nil || tcp == nil {
		return fmt.Sprintf("%d B %x", length, data)
	}
	var flags string
	for _, f := range []struct {
		on   bool
		name string
	}{{tcp.SYN, "SYN "}, {tcp.FIN, "FIN "}, {tcp.RST, "RST "}, {tcp.PSH, "PSH "}, {tcp.ACK, "ACK "}} {
		if f.on {
			flags += f.name
		}
	}
	return fmt.Sprintf("%s:%d > %s:%d %sseq %d ack %d win %d id %d, %d B, options %x", ip.SrcIP, tcp.SrcPort, ip.DstIP, tcp.DstPort, flags, tcp.Seq, tcp.Ack, tcp.Window, ip.Id, length, tcp.Contents[min(20, len(tcp.Contents)):])
}

// neighbours are shown before a difference.
const neighbours = 3

// firstDifference is the first entry that differs, with what came before it,
// and what follows in each.
func firstDifference(a, b []string) string {
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	var s strings.Builder
	if i == len(a) && i == len(b) {
		return "the same entries in other bytes"
	}
	fmt.Fprintf(&s, "entry %d differs first\n", i+1)
	for _, e := range a[max(0, i-neighbours):i] {
		fmt.Fprintf(&s, "    both    %s\n", e)
	}
	for _, side := range []struct {
		name string
		of   []string
	}{{"record", a}, {"now", b}} {
		end := min(len(side.of), i+neighbours)
		for _, e := range side.of[min(i, end):end] {
			fmt.Fprintf(&s, "    %-6s  %s\n", side.name, e)
		}
		if end == i {
			fmt.Fprintf(&s, "    %-6s  (ends here)\n", side.name)
		}
	}
	return strings.TrimRight(s.String(), "\n")
}
