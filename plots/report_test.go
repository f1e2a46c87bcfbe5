package plots

import (
	"bytes"
	"encoding/xml"
	"flag"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"tcplab/results"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares got with testdata/name.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v; write it with -update", err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (look at it, then write it with -update):\n%s", file, firstDifference(string(want), string(got)))
	}
}

func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range max(len(w), len(g)) {
		a, b := "(end)", "(end)"
		if i < len(w) {
			a = w[i]
		}
		if i < len(g) {
			b = g[i]
		}
		if a != b {
			return "want: " + a + "\n got: " + b
		}
	}
	return ""
}

// report draws r in dir and gives back all that was written, by name.
func report(t *testing.T, dir string, r *results.Run, notes string) map[string][]byte {
	t.Helper()
	if err := draw(dir, r, notes, false); err != nil {
		t.Fatal(err)
	}
	return written(t, dir)
}

func written(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.Contains(p, "/trials/") {
			return err
		}
		data, err := os.ReadFile(p)
		rel, _ := filepath.Rel(dir, p)
		files[rel] = data
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestSameRecordGivesTheSameBytesAnywhere(t *testing.T) {
	defer goleak.VerifyNone(t)
	var first map[string][]byte
	for range 2 {
		dir := t.TempDir()
		if err := Report(dir, makeRun(t, dir, quickArms), "seen"); err != nil {
			t.Fatal(err)
		}
		files := written(t, dir)
		if first == nil {
			first = files
			continue
		}
		if len(files) != len(first) {
			t.Errorf("%d files, then %d", len(first), len(files))
		}
		for _, n := range sortedKeys(first) {
			if !bytes.Equal(first[n], files[n]) {
				t.Errorf("%s differs between two drawings of the same record", n)
			}
		}
	}
	for _, n := range []string{"report.md", "report.html", "figures/latency.svg", "figures/latency.png", "figures/handshakes.svg", "figures/completed.svg", "figures/time-wait.svg", "figures/connect.svg", "figures/errors.svg", "figures/ladder-before.svg", "figures/ladder-after.svg"} {
		if len(first[n]) == 0 {
			t.Errorf("%s was not written", n)
		}
	}
}

func TestReportLeavesNoDescriptorOpen(t *testing.T) {
	dir := t.TempDir()
	r := makeRun(t, dir, quickArms)
	open := func() int {
		es, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(es)
	}
	before := open()
	report(t, dir, r, "")
	if after := open(); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func TestGoldensOfTheChurnReport(t *testing.T) {
	dir := t.TempDir()
	r := makeRun(t, dir, quickArms)
	files := report(t, dir, r, "# Mine\n\nSeen on two machines.")
	golden(t, "quick.table.txt", []byte(Table(r)))
	golden(t, "quick.summary.txt", []byte(Summary(r, "results/runs/churn/latest/report.html")))
	golden(t, "quick.report.md", files["report.md"])
	golden(t, "quick.ladder-before.svg", withoutFonts(files["figures/ladder-before.svg"]))
	golden(t, "quick.time-wait.svg", withoutFonts(files["figures/time-wait.svg"]))
	golden(t, "quick.latency.svg", withoutFonts(files["figures/latency.svg"]))

	dir = t.TempDir()
	r = makeRun(t, dir, fullArms)
	files = report(t, dir, r, "")
	golden(t, "full.table.txt", []byte(Table(r)))
	golden(t, "full.report.md", files["report.md"])

	dir = t.TempDir()
	r = makeAwful(t, dir)
	files = report(t, dir, r, "")
	golden(t, "awful.table.txt", []byte(Table(r)))
	golden(t, "awful.summary.txt", []byte(Summary(r, "")))
	golden(t, "awful.report.md", files["report.md"])
}

var fontData = regexp.MustCompile(`base64,[A-Za-z0-9+/=]+`)

// withoutFonts keeps a golden drawing small enough to read.
func withoutFonts(svg []byte) []byte { return fontData.ReplaceAll(svg, []byte("base64,…")) }

func isXML(t *testing.T, name string, doc []byte) {
	t.Helper()
	d := xml.NewDecoder(bytes.NewReader(doc))
	for {
		if _, err := d.Token(); err == io.EOF {
			return
		} else if err != nil {
			t.Errorf("%s is no XML: %v", name, err)
			return
		}
	}
}

var inlined = regexp.MustCompile(`(?s)<svg.*?</svg>`)

func TestEveryDrawingIsXML(t *testing.T) {
	for _, make := range []func(testing.TB, string) *results.Run{
		func(t testing.TB, d string) *results.Run { return makeRun(t, d, fullArms) }, makeAwful,
	} {
		dir := t.TempDir()
		files := report(t, dir, make(t, dir), "")
		drawings := 0
		for n, data := range files {
			if strings.HasSuffix(n, ".svg") {
				drawings++
				isXML(t, n, data)
			}
		}
		svgs := inlined.FindAll(files["report.html"], -1)
		if len(svgs) < drawings || drawings < 8 {
			t.Errorf("%d drawings in the page, %d files", len(svgs), drawings)
		}
		for _, s := range svgs {
			isXML(t, "inlined drawing", s)
			if bytes.Contains(s, []byte(" id=")) || bytes.Contains(s, []byte("@font-face")) {
				t.Errorf("an inlined drawing has an id or a font: %.80s", s)
			}
			if m := regexp.MustCompile(`#[0-9A-Fa-f]{6}`).Find(s); m != nil {
				t.Errorf("an inlined drawing has a colour of its own, which dark mode cannot change: %s", m)
			}
		}
	}
}

func TestEveryFigureSaysWhatItShows(t *testing.T) {
	dir := t.TempDir()
	r := makeRun(t, dir, quickArms)
	files := report(t, dir, r, "")
	html := string(files["report.html"])
	images := regexp.MustCompile(`role="img" aria-label="([^"]*)"`).FindAllStringSubmatch(html, -1)
	if len(images) != 8 {
		t.Errorf("%d images with a text alternative, not 6 figures and 2 ladders", len(images))
	}
	for _, m := range images {
		if !regexp.MustCompile(`[0-9]`).MatchString(m[1]) {
			t.Errorf("a text alternative without a number states no finding: %q", m[1])
		}
	}
	for _, m := range regexp.MustCompile(`!\[([^\]]*)\]\(([^)]*)\)`).FindAllStringSubmatch(string(files["report.md"]), -1) {
		if len(m[1]) < 30 {
			t.Errorf("report.md: %s has the text alternative %q", m[2], m[1])
		}
		if _, ok := files[m[2]]; !ok {
			t.Errorf("report.md shows %s, which was not written", m[2])
		}
	}
	for n, data := range files {
		if strings.HasSuffix(n, ".svg") && (!bytes.Contains(data, []byte("<title id=\"title\">")) || !bytes.Contains(data, []byte("<desc id=\"desc\">"))) {
			t.Errorf("%s has no title or description", n)
		}
	}
}

func TestPageLoadsNothing(t *testing.T) {
	dir := t.TempDir()
	r := makeAwful(t, dir)
	r.Writeup += "\n![pixel](https://example.org/pixel.png)\n![other](figures/x.png)\n"
	html := string(report(t, dir, r, "![spy](http://example.org/spy.png \"t\")\n\n<img src=\"http://example.org/raw.png\">")["report.html"])
	for _, bad := range []string{`src="http`, `src='http`, "url(http", "@import", "<script", "<iframe", "<object", "<embed", "<img", `rel="stylesheet"`, "xlink:href"} {
		if strings.Contains(html, bad) {
			t.Errorf("the page has %s", bad)
		}
	}
	if !strings.Contains(html, `href="https://example.org/pixel.png"`) || !strings.Contains(html, `href="http://example.org/spy.png"`) {
		t.Error("an image that is not loaded has become no link")
	}
	if !strings.Contains(html, `http-equiv="Content-Security-Policy" content="default-src 'none'`) {
		t.Error("the page has no policy against loading")
	}
	ids := map[string]bool{}
	for _, m := range regexp.MustCompile(` id="([^"]*)"`).FindAllStringSubmatch(html, -1) {
		if ids[m[1]] {
			t.Errorf("id %s is there twice", m[1])
		}
		ids[m[1]] = true
	}
	for _, m := range regexp.MustCompile(`aria-labelledby="([^"]*)"`).FindAllStringSubmatch(html, -1) {
		if !ids[m[1]] {
			t.Errorf("a label points at %s, which is not there", m[1])
		}
	}
}

func TestNobodysWordsBecomeScript(t *testing.T) {
	dir := t.TempDir()
	r := makeRun(t, dir, quickArms)
	evil := `<script>alert(1)</script>"><svg onload=alert(1)>`
	r.Question, r.Because = evil, evil
	r.Command = []string{evil}
	e := r.Expectations["cured"]
	e.Observed, e.Because = evil, evil
	r.Expectations[evil] = e
	a := r.Arms["pooled"]
	a.Levers[evil] = results.Lever{From: evil, To: evil, Why: evil}
	t0 := a.Trials[0]
	t0.Agents[0].Stderr = evil
	l := t0.Ladders["after"]
	l.Left, l.Events[0].Label, l.Events[0].Comment = evil, evil, evil
	l.Spans[0].Label = evil
	t0.Ladders["after"] = l
	r.Arms[evil] = results.Arm{Position: 9, Metrics: a.Metrics, Trials: a.Trials}
	r.Warnings = append(r.Warnings, results.Warning{About: evil, Text: evil})
	notes := strings.Join([]string{evil, "[a](javascript:alert(1))", "[b](  JaVaScRiPt:alert(1))", "[c](data:text/html;base64,PHNjcmlwdD4=)", "<iframe src=x></iframe>",
		"<a href=\"javascript:alert(1)\">d</a>", "![e](javascript:alert(1))", "[f]: javascript:alert(1)\n\n[f]", "<style>body{display:none}</style>", "`<script>`", "<javascript:alert(1)>"}, "\n\n")
	files := report(t, dir, r, notes)
	html := string(files["report.html"])
	for _, bad := range []string{"<script", "<svg onload", "<iframe", `href="javascript`, `href="JaVa`, `href="data:text`, "<style>body"} {
		if strings.Contains(html, bad) {
			i := strings.Index(html, bad)
			t.Errorf("%s got into the page: …%s…", bad, html[max(0, i-60):min(len(html), i+80)])
		}
	}
	for n, data := range files {
		if strings.HasSuffix(n, ".svg") {
			isXML(t, n, data)
			if bytes.Contains(data, []byte("<script")) || bytes.Contains(data, []byte("<svg onload")) {
				t.Errorf("%s has a script", n)
			}
		}
	}
}

func TestMissingFilesAreNamedAndTheRestIsDrawn(t *testing.T) {
	dir := t.TempDir()
	r := makeRun(t, dir, quickArms)
	per, pooled := r.Arms["per_request"].Trials[0].Dir, r.Arms["pooled"].Trials[0].Dir
	for _, f := range []string{filepath.Join(per, results.HistogramFile), filepath.Join(pooled, results.SamplesFile)} {
		if err := os.Remove(filepath.Join(dir, f)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, pooled, results.HistogramFile), []byte("no histogram"), 0o666); err != nil {
		t.Fatal(err)
	}
	files := report(t, dir, r, "")
	for _, n := range []string{"report.md", "report.html"} {
		text := string(files[n])
		for _, f := range []string{results.HistogramFile, results.SamplesFile} {
			if !strings.Contains(text, f) {
				t.Errorf("%s does not name the missing %s", n, f)
			}
		}
		if strings.Contains(text, dir) {
			t.Errorf("%s tells the machine's own paths", n)
		}
	}
	if files["figures/handshakes.svg"] == nil {
		t.Error("handshakes could be drawn of what is left, and were not")
	}
	if files["figures/latency.svg"] != nil {
		t.Error("latency was drawn of nothing")
	}
	if err := os.RemoveAll(filepath.Join(dir, "trials")); err != nil {
		t.Fatal(err)
	}
	os.RemoveAll(filepath.Join(dir, "figures"))
	files = report(t, dir, r, "")
	if s := string(files["report.md"]); !strings.Contains(s, "There is no figure") || !strings.Contains(s, "21.7 ms") {
		t.Error("without trials/ the report lost its table, or does not say why it has no figure")
	}
}

func TestFigureThatCannotBeDrawnIsANote(t *testing.T) {
	c := chart{file: "broken", title: "broken", lines: []line{{label: "a", x: []float64{1, 2}, y: []float64{1}}}}
	files := map[string][]byte{}
	f := drawFigure(c, files, true)
	if f.problem == "" || len(files) != 0 {
		t.Errorf("problem %q, files %d", f.problem, len(files))
	}
}

func TestInterruptedRunWithoutTrialsIsReadable(t *testing.T) {
	for name, r := range map[string]*results.Run{
		"no arms": {Experiment: "churn", Verdict: results.Invalid, Because: "interrupted before the first trial"},
		"nothing": {},
		"arms": {Experiment: "churn", Verdict: results.Invalid, Because: "interrupted before the first trial", Arms: map[string]results.Arm{"a": {Baseline: true}, "b": {Position: 1, Unsupported: "no IPv6"}},
			Evidence: map[string]results.Evidence{"before": {Arm: "a", Show: "handshake"}}},
	} {
		dir := t.TempDir()
		files := report(t, dir, r, "")
		for _, n := range []string{"report.md", "report.html"} {
			if !strings.Contains(string(files[n]), "no trial was measured") {
				t.Errorf("%s: %s does not say that no trial was measured", name, n)
			}
		}
		_, _ = Table(r), Summary(r, "")
	}
}

func TestWriteErrorsAreTold(t *testing.T) {
	dir := t.TempDir()
	r := makeRun(t, dir, quickArms)
	if err := os.WriteFile(filepath.Join(dir, "figures"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := Report(dir, r, ""); err == nil || !strings.Contains(err.Error(), "figures") {
		t.Errorf("a folder that cannot be made gave %v", err)
	}
}

func TestWarningsStandBesideWhatTheyConcern(t *testing.T) {
	dir := t.TempDir()
	r := makeAwful(t, dir)
	md := string(report(t, dir, r, "")["report.md"])
	section := func(text string) string {
		i := strings.Index(md, text)
		if i < 0 {
			t.Errorf("the report lost the warning %q", text)
			return ""
		}
		head := md[:i]
		return head[strings.LastIndex(head, "\n#")+1:]
	}
	for text, want := range map[string]string{
		"its pool is larger":          "## Levers",
		"only 40 samples":             "median latency",
		"was not measured on this":    "## Before and after",
		"the first second is the":     "EADDRNOTAVAIL",
		"both cores were busy":        "# awful",
		"ss counts 4,011 TIME-WAIT":   "### Trial 3",
		"the generator's lag p99 of ": "# awful",
	} {
		head, _, _ := strings.Cut(section(text), "\n")
		if !strings.Contains(head, want) {
			t.Errorf("warning %q stands under %q, not %q", text, head, want)
		}
	}
	// A warning about a figure that there is not, goes to the table.
	r.Warnings = []results.Warning{{About: "latency", Text: "lonely"}}
	os.RemoveAll(filepath.Join(dir, "trials"))
	md = string(report(t, dir, r, "")["report.md"])
	if head, _, _ := strings.Cut(section("lonely"), "\n"); !strings.Contains(head, "Before and after") {
		t.Errorf("the warning about a figure that was not drawn stands under %q", head)
	}
}

func TestKernelSettingWithoutAReasonIsFlagged(t *testing.T) {
	dir := t.TempDir()
	r := makeRun(t, dir, quickArms)
	a := r.Arms["pooled"]
	a.Levers["hosts.client.sysctl[net.ipv4.tcp_tw_reuse]"] = results.Lever{From: "2", To: "1"}
	defer delete(a.Levers, "hosts.client.sysctl[net.ipv4.tcp_tw_reuse]")
	files := report(t, dir, r, "")
	for _, n := range []string{"report.md", "report.html"} {
		s := string(files[n])
		if !strings.Contains(s, "no reason given") || !strings.Contains(s, "1 kernel setting; 1 of them has no reason.") {
			t.Errorf("%s does not flag it", n)
		}
	}
}
