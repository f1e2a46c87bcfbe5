package results

import (
	"compress/gzip"
	"encoding/csv"
	"fmt"
	"io"
	"math"
	"sort"
	"strconv"
	"strings"
	"time"

	hdr "github.com/HdrHistogram/hdrhistogram-go"
)

// Names of the files in a trial's folder.
const (
	HistogramFile = "latency.hlog"
	SamplesFile   = "samples.csv.gz"
	CaptureFile   = "capture.pcapng"
	EventsFile    = "events.ndjson"
	SocketsFile   = "sockets.txt"
)

// FatesFile is where a trial keeps what was drawn for the packets of a link.
func FatesFile(link string) string { return "fates-" + link + ".json.gz" }

// NewHistogram is the one geometry of every histogram in a record:
// nanoseconds, from 100 ns to 24 h, three significant digits.
func NewHistogram() *hdr.Histogram { return hdr.New(100, int64(24*time.Hour), 3) }

// Histograms are a trial's distributions, by OWNER.NAME ("client.latency").
// Values are nanoseconds.
type Histograms map[string]*hdr.Histogram

// WriteHistograms writes the HdrHistogram log format 1.3, a tag each.
func WriteHistograms(w io.Writer, hs Histograms) error {
	lw := hdr.NewHistogramLogWriter(w)
	if err := lw.OutputLogFormatVersion(); err != nil {
		return err
	}
	if err := lw.OutputComment("#[values are nanoseconds; the tag says whose and which]\n"); err != nil {
		return err
	}
	if err := lw.OutputLegend(); err != nil {
		return err
	}
	names := make([]string, 0, len(hs))
	for n := range hs {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		c := hs[n].Clone()
		c.SetTag(n)
		if err := lw.OutputIntervalHistogram(c); err != nil {
			return fmt.Errorf("histogram %s: %w", n, err)
		}
	}
	return nil
}

// ReadHistograms reads what WriteHistograms wrote.
func ReadHistograms(r io.Reader) (Histograms, error) {
	lr := hdr.NewHistogramLogReader(r)
	hs := Histograms{}
	for {
		h, err := lr.NextIntervalHistogram()
		if err == io.EOF || err == nil && h == nil {
			return hs, nil
		}
		if err != nil {
			return nil, fmt.Errorf("histogram log: %w", err)
		}
		hs[h.Tag()] = h
	}
}

// Quantile is the value below which the share q (0…1) of h lies, in seconds.
// It is not there when fewer than ten samples lie beyond it (the largest,
// q = 1, apart).
func Quantile(h *hdr.Histogram, q float64) (float64, bool) {
	n := h.TotalCount()
	if n == 0 || q < 1 && float64(n)*(1-q) < 10-1e-6 && q != 0.5 {
		return 0, false
	}
	return float64(h.ValueAtQuantile(q*100)) / 1e9, true
}

// Series is one quantity over time: V[i] was seen T[i] seconds after go.
type Series struct {
	Name  string // OWNER.SERIES
	Unit  string
	About string
	T, V  []float64
}

// Column describes the series in a record.
func (s Series) Column() Column { return Column{Name: s.Name, Unit: s.Unit, About: s.About} }

// WriteSamples writes series as one gzipped CSV: a column "t", then one for
// each series; a cell is empty where its series has no sample at that time.
func WriteSamples(w io.Writer, series []Series) error {
	zw := gzip.NewWriter(w)
	cw := csv.NewWriter(zw)
	head := []string{"t"}
	type cell struct {
		t   float64
		col int
		v   float64
	}
	var cells []cell
	for i, s := range series {
		if len(s.T) != len(s.V) {
			return fmt.Errorf("series %s: %d times for %d values", s.Name, len(s.T), len(s.V))
		}
		head = append(head, s.Name)
		for j := range s.T {
			if !math.IsNaN(s.V[j]) {
				cells = append(cells, cell{s.T[j], i + 1, s.V[j]})
			}
		}
	}
	if err := cw.Write(head); err != nil {
		return err
	}
	sort.SliceStable(cells, func(i, j int) bool { return cells[i].t < cells[j].t })
	row := make([]string, len(head))
	flush := func() error {
		err := cw.Write(row)
		clear(row)
		return err
	}
	for i, c := range cells {
		if i > 0 && (c.t != cells[i-1].t || row[c.col] != "") {
			if err := flush(); err != nil {
				return err
			}
		}
		row[0] = strconv.FormatFloat(c.t, 'f', 9, 64)
		row[c.col] = strconv.FormatFloat(c.v, 'g', -1, 64)
	}
	if len(cells) > 0 {
		if err := flush(); err != nil {
			return err
		}
	}
	cw.Flush()
	if err := cw.Error(); err != nil {
		return err
	}
	return zw.Close()
}

// ReadSamples reads what WriteSamples wrote. Units and descriptions come from
// the record's columns.
func ReadSamples(r io.Reader, columns []Column) (map[string]Series, error) {
	zr, err := gzip.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("samples: %w", err)
	}
	defer zr.Close()
	cr := csv.NewReader(zr)
	cr.ReuseRecord = true
	first, err := cr.Read()
	if err != nil {
		return nil, fmt.Errorf("samples: %w", err)
	}
	if first[0] != "t" {
		return nil, fmt.Errorf("samples: the first column is %q, not t", first[0])
	}
	series := make([]Series, len(first))
	for i, n := range first {
		series[i].Name = strings.Clone(n)
		for _, c := range columns {
			if c.Name == n {
				series[i].Unit, series[i].About = c.Unit, c.About
			}
		}
	}
	for {
		row, err := cr.Read()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("samples: %w", err)
		}
		t, err := strconv.ParseFloat(row[0], 64)
		if err != nil {
			return nil, fmt.Errorf("samples: time %q: %w", row[0], err)
		}
		for i := 1; i < len(row); i++ {
			if row[i] == "" {
				continue
			}
			v, err := strconv.ParseFloat(row[i], 64)
			if err != nil {
				return nil, fmt.Errorf("samples: %s: %w", first[i], err)
			}
			series[i].T, series[i].V = append(series[i].T, t), append(series[i].V, v)
		}
	}
	out := make(map[string]Series, len(series))
	for _, s := range series[1:] {
		out[s.Name] = s
	}
	return out, nil
}
