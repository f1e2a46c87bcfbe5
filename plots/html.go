package plots

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/parser"
	"github.com/yuin/goldmark/text"
	"github.com/yuin/goldmark/util"

	"tcplab/results"
)

//go:embed report.html.tmpl
var pageText string

//go:embed report.css
var pageCSS string

var pageTemplate = template.Must(template.New("report").Funcs(template.FuncMap{"nb": nb, "wb": wb}).Parse(pageText))

var numberUnit = regexp.MustCompile(`([0-9]) (ns|µs|ms|s|bit/s|[kMG]bit/s|B|[KMG]iB|CPU)\b`)

// nb keeps a number and its unit on one line.
func nb(s string) string { return numberUnit.ReplaceAllString(s, "$1\u00a0$2") }

// wb lets a long path break after its dots and the like, and nowhere else:
// not within a number, nor within an operator such as == or the two dots of a
// range.
func wb(s string) template.HTML {
	var b strings.Builder
	cs := []rune(nb(s))
	for i, c := range cs {
		b.WriteString(template.HTMLEscapeString(string(c)))
		if !strings.ContainsRune("._/=,]", c) || i+1 == len(cs) {
			continue
		}
		next := cs[i+1]
		number := i > 0 && unicode.IsDigit(cs[i-1]) && unicode.IsDigit(next)
		if !number && next != c && !unicode.IsSpace(next) {
			b.WriteString("<wbr>")
		}
	}
	return template.HTML(b.String())
}

// The page's data: what the template shows, in words. html/template escapes
// every string; template.HTML is only what this package drew or what goldmark
// made of Markdown with raw HTML left out.
type pageData struct {
	Title, Verdict, Because, Question, AskedRan string
	Fonts, CSS                                  template.CSS
	Facts                                       []pageFact
	Reasons                                     []string
	TopWarnings, TableWarnings, ArmWarnings     []string
	Tables                                      []pageTable
	Alike                                       string // what every arm has
	Ladder                                      *pageLadder
	Expectations                                []pageExpectation
	Predictions                                 []pagePrediction
	NoFigures                                   string
	Gaps                                        []string
	Figures                                     []pageFigure
	Evidence                                    []pageEvidence
	Writeup, Notes                              template.HTML
	LeverArms                                   []pageLevers
	KernelSentence                              string
	SheetSysctls, Pinned                        []pageFact
	Trials                                      []pageTrial
	LagHead                                     []string
	Many                                        bool // trials: only those with something to say are open
	Triage                                      []triageRow
	TriageFound                                 bool
}

type (
	pageFact struct {
		Name, Value string
		Code        bool
	}
	pageTable struct {
		Caption string
		Arms    []pageArm
		Few     bool // arms: their changes fit beside their values
		Blocks  []pageBlock
	}
	pageArm struct {
		Name  string
		Notes []string
	}
	pageBlock struct {
		Title string
		Rows  []pageRow
	}
	pageRow struct {
		Label, About string
		Cells        []pageCell
	}
	pageCell        struct{ Value, Spread, Change string }
	pageExpectation struct {
		Name, Mark, Outcome, Class            string
		That, Unless, Because, Observed, Note string
	}
	pagePrediction struct {
		Name, Of, Is, Because, Predicted, Measured, Diff, Within string
		Mark, Outcome, Class, Note                               string
	}
	pageFigure struct {
		File, Title, Alt, Caption, SVG, PNG, Problem string
		Wide, Phone                                  template.HTML
		Warnings                                     []string
		Columns                                      []string
		Rows                                         [][]string
	}
	pageEvidence struct {
		Title, Alt, Capture, Frames, Problem string
		Inline                               template.HTML
		Packets                              []pagePacket
	}
	pagePacket struct{ Sent, From, Label, Comment, Arrived, Frame string }
	pageLevers struct {
		Name, None string
		Levers     []pageLever
	}
	pageLever struct {
		Name, From, To, Why string
		Kernel              bool
	}
	pageTrial struct {
		Head                    string
		Number, Arm, Pair, Seed string
		Lags                    []string
		Valid                   bool
		Why                     string
		Facts                   []pageFact
		Warnings                []string
		Wires                   []pageWire
		Agents                  []pageAgent
	}
	pageWire struct {
		Link, About string
		Counters    []string
		Rows        []pageWireRow
	}
	pageWireRow struct {
		Direction string
		Values    []string
	}
	pageAgent struct{ Name, Is, Host, CPU, RSS, Options, Exit, Stderr string }
)

func pageFacts(fs []fact) []pageFact {
	var out []pageFact
	for _, f := range fs {
		out = append(out, pageFact{f.name, f.value, f.name == "command" || f.name == "digest"})
	}
	return out
}

// class is the style of an outcome: colour is never its only sign.
func class(h results.Holds) string {
	switch h {
	case results.HoldsYes:
		return "yes"
	case results.HoldsNo:
		return "no"
	case results.NotAsked, "":
		return ""
	}
	return "open"
}

// html is the report as one file that loads nothing.
func (v view) html() ([]byte, error) {
	r := v.run
	p := pageData{
		Title: v.title, Verdict: v.verdict, Because: r.Because, Question: r.Question, AskedRan: v.askedRan,
		CSS: template.CSS(pageCSS), Facts: pageFacts(v.facts), Reasons: v.reasons,
		TopWarnings: v.warnings.top, TableWarnings: v.warnings.table,
		Gaps: v.gaps, KernelSentence: v.kernelSentence(),
		SheetSysctls: pageFacts(v.sheetSysctls), Pinned: pageFacts(v.pinned), Triage: v.triage, TriageFound: triageFound(v.triage),
	}
	if len(v.table.arms) > 0 {
		dense, same := v.table.dense()
		for i, t := range dense.parts() {
			p.Tables = append(p.Tables, newPageTable(t, i > 0))
		}
		p.Alike = alikeSentence(same)
	}
	p.Ladder = v.fixes.page()
	for _, e := range v.expectations {
		p.Expectations = append(p.Expectations, pageExpectation{e.name, mark(e.Holds), outcome(e.Holds), class(e.Holds), e.That, e.Unless, e.Because, e.Observed, e.Note})
	}
	for _, q := range v.predictions {
		h := q.result()
		pp := pagePrediction{Name: q.name, Of: q.of, Is: q.is, Because: q.because, Predicted: q.predicted, Measured: q.measured, Diff: q.diff, Within: q.within, Outcome: outcome(h), Class: class(h), Note: q.note}
		if pp.Within == "" {
			pp.Within = none
		}
		if h != "" {
			pp.Mark = mark(h)
		}
		p.Predictions = append(p.Predictions, pp)
	}
	if len(v.figures) == 0 {
		p.NoFigures = v.noFigures()
	}
	for _, f := range v.figures {
		p.Figures = append(p.Figures, pageFigure{f.file, f.title, f.alt, f.caption, f.svg, f.png, f.problem, template.HTML(f.wide), template.HTML(f.phone), f.warnings, f.columns, f.rows})
	}
	for _, e := range v.evidence {
		pe := pageEvidence{e.title, e.alt, e.capture, e.frames, e.problem, template.HTML(e.inline), nil}
		for _, q := range e.packets {
			pe.Packets = append(pe.Packets, newPagePacket(q.row()))
		}
		p.Evidence = append(p.Evidence, pe)
	}
	for _, a := range v.arms {
		pl := pageLevers{Name: a.name}
		switch {
		case a.unsupported != "":
			pl.None = "not run: " + a.unsupported
		case a.baseline:
			pl.None = "the baseline"
		default:
			pl.None = "changes nothing"
		}
		if a.unsupported == "" || len(a.levers) > 0 {
			for _, l := range a.levers {
				pl.Levers = append(pl.Levers, pageLever{l.name, l.from, l.to, l.why, l.kernel})
			}
		}
		p.LeverArms = append(p.LeverArms, pl)
		p.ArmWarnings = append(p.ArmWarnings, a.warnings...)
	}
	p.LagHead, p.Many = lagHead, len(v.trials) > 4
	for _, t := range v.trials {
		p.Trials = append(p.Trials, newPageTrial(t))
	}
	fonts, err := fontFaces(v.drawings())
	if err != nil {
		return nil, err
	}
	p.Fonts = template.CSS(fonts)
	if p.Writeup, err = toHTML(r.Writeup); err != nil {
		return nil, fmt.Errorf("write-up: %w", err)
	}
	if p.Notes, err = toHTML(v.notes); err != nil {
		return nil, fmt.Errorf("notes: %w", err)
	}
	var b bytes.Buffer
	if err := pageTemplate.Execute(&b, p); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// drawings are all of the page's, one after the other.
func (v view) drawings() string {
	var b strings.Builder
	for _, f := range v.figures {
		b.WriteString(f.wide)
		b.WriteString(f.phone)
	}
	for _, e := range v.evidence {
		b.WriteString(e.inline)
	}
	return b.String()
}

// newPageTable is one of the tables of before and after; again says that
// another one stands above it.
func newPageTable(t table, again bool) pageTable {
	p := pageTable{Caption: "The baseline first; below each value, how it differs from the baseline's.", Few: len(t.arms) <= few}
	if again {
		p.Caption = againBaseline
	}
	for _, a := range t.arms {
		h := a.heading()
		p.Arms = append(p.Arms, pageArm{h[0], h[1:]})
	}
	for _, b := range t.blocks {
		pb := pageBlock{Title: b.title}
		for _, r := range b.rows {
			pr := pageRow{Label: r.label, About: r.about}
			for _, c := range r.cells {
				pr.Cells = append(pr.Cells, pageCell{c.value, c.spread, c.change})
			}
			pb.Rows = append(pb.Rows, pr)
		}
		p.Blocks = append(p.Blocks, pb)
	}
	return p
}

func newPagePacket(r packetRow) pagePacket {
	return pagePacket{r.sent, r.from, r.label, r.comment, r.arrived, r.frame}
}

func newPageTrial(t trialView) pageTrial {
	pt := pageTrial{Head: t.head, Number: strconv.Itoa(t.Number), Arm: t.Arm, Pair: strconv.Itoa(t.Pair), Seed: strconv.FormatUint(t.Seed, 10), Lags: t.lags(), Valid: t.Validity.Valid, Why: t.whyInvalid(), Facts: pageFacts(t.facts), Warnings: t.warnings}
	for _, w := range t.wires {
		pw := pageWire{Link: w.Link, About: w.about}
		for _, c := range w.counters {
			pw.Counters = append(pw.Counters, strings.ReplaceAll(c, "_", " "))
		}
		for _, r := range w.rows {
			pw.Rows = append(pw.Rows, pageWireRow{r.direction, r.values})
		}
		pt.Wires = append(pt.Wires, pw)
	}
	for _, a := range t.Agents {
		pt.Agents = append(pt.Agents, pageAgent{a.Name, strings.TrimSpace(a.Role + " " + a.Kind), a.Host, cpu(a.CPU), rss(a.MaxRSS), pairs(a.Options), a.Exit, a.Stderr})
	}
	return pt
}

// prose makes HTML of Markdown that someone else wrote. Raw HTML in it is left
// out and dangerous addresses are emptied (goldmark's default, which must stay
// so); its headings go below the page's own; an image that the page would have
// to load becomes a link to it.
var prose = goldmark.New(
	goldmark.WithExtensions(extension.GFM),
	goldmark.WithParserOptions(parser.WithASTTransformers(util.Prioritized(tame{}, 900))),
)

func toHTML(md string) (template.HTML, error) {
	if strings.TrimSpace(md) == "" {
		return "", nil
	}
	var b bytes.Buffer
	if err := prose.Convert([]byte(md), &b); err != nil {
		return "", err
	}
	return template.HTML(b.String()), nil
}

type tame struct{}

var _ parser.ASTTransformer = tame{}

func (tame) Transform(doc *ast.Document, _ text.Reader, _ parser.Context) {
	var images []*ast.Image
	_ = ast.Walk(doc, func(n ast.Node, enter bool) (ast.WalkStatus, error) {
		if !enter {
			return ast.WalkContinue, nil
		}
		switch n := n.(type) {
		case *ast.Heading:
			n.Level = min(6, n.Level+2)
		case *ast.Image:
			if !bytes.HasPrefix(n.Destination, []byte("data:image/")) {
				images = append(images, n)
			}
		}
		return ast.WalkContinue, nil
	})
	for _, i := range images {
		l := ast.NewLink()
		l.Destination, l.Title = i.Destination, i.Title
		for c := i.FirstChild(); c != nil; c = i.FirstChild() {
			l.AppendChild(l, c)
		}
		if !l.HasChildren() {
			l.AppendChild(l, ast.NewString(i.Destination))
		}
		i.Parent().ReplaceChild(i.Parent(), i, l)
	}
}
