package plots

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"tcplab/results"
)

// browser finds Chromium; `make test` installs it where it can.
func browser(t *testing.T) string {
	t.Helper()
	for _, n := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if p, err := exec.LookPath(n); err == nil {
			return p
		}
	}
	t.Fatal("no Chromium: install Debian's package chromium")
	return ""
}

func TestPageIsReadableInABrowserAtEveryWidthAndInTheDark(t *testing.T) {
	dir := t.TempDir()
	pages := map[string]string{}
	for name, make := range map[string]func(testing.TB, string) *results.Run{
		"churn": func(t testing.TB, d string) *results.Run { return makeRun(t, d, quickArms) },
		"awful": makeAwful,
		"empty": func(testing.TB, string) *results.Run {
			return &results.Run{Experiment: "churn", Verdict: results.Invalid, Because: "interrupted before the first trial"}
		},
	} {
		d := filepath.Join(dir, name)
		if err := os.MkdirAll(d, 0o777); err != nil {
			t.Fatal(err)
		}
		if err := draw(d, make(t, d), "# Notes\n\n`"+strings.Repeat("long", 60)+"`\n\n![far](https://example.org/a.png)", false); err != nil {
			t.Fatal(err)
		}
		pages[name] = filepath.Join(d, HTMLFile)
	}

	alloc, cancel := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(browser(t)), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(filepath.Join(dir, "profile")))...)
	defer cancel()
	ctx, cancel := chromedp.NewContext(alloc)
	defer func() {
		if err := chromedp.Cancel(ctx); err != nil {
			t.Log(err)
		}
		cancel()
	}()
	if err := chromedp.Do(ctx); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var said, asked []string
	if err := chromedp.Listen(ctx, func(ev any) {
		mu.Lock()
		defer mu.Unlock()
		switch ev := ev.(type) {
		case *network.EventRequestWillBeSent:
			asked = append(asked, ev.Request.URL)
		case *runtime.EventConsoleAPICalled:
			said = append(said, "console."+string(ev.Type))
		case *runtime.EventExceptionThrown:
			said = append(said, ev.ExceptionDetails.Text)
		case *log.EventEntryAdded:
			said = append(said, ev.Entry.Text)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := chromedp.Call(ctx, network.Enable, network.EnableParams{}); err != nil {
		t.Fatal(err)
	}
	if _, err := chromedp.Call(ctx, log.Enable, cdp.Empty{}); err != nil {
		t.Fatal(err)
	}
	within, stop := context.WithTimeout(ctx, 8*time.Minute)
	defer stop()

	for _, name := range sortedKeys(pages) {
		for _, v := range []screen{
			{360, "", "light", "rgb(255, 255, 255)"}, {768, "", "dark", "rgb(20, 23, 26)"}, {1280, "", "light", "rgb(255, 255, 255)"},
			{680, "print", "dark", "rgb(255, 255, 255)"}, // A4 less its margins; paper is always light
		} {
			v.check(within, t, name, pages[name])
		}
	}
	mu.Lock()
	defer mu.Unlock()
	for _, u := range asked {
		if !strings.HasPrefix(u, "file://") && !strings.HasPrefix(u, "data:") {
			t.Errorf("the page asked the network for %s", u)
		}
	}
	if len(asked) == 0 {
		t.Error("not even the page itself was seen to be asked for: the test sees nothing")
	}
	for _, s := range said {
		t.Errorf("the console says: %s", s)
	}
}

// A screen is a way to look at a page, and the background that it must have.
type screen struct {
	width                     int64
	media, scheme, background string
}

func (v screen) check(ctx context.Context, t *testing.T, name, file string) {
	t.Helper()
	where := fmt.Sprintf("%s at %d px, %s %s", name, v.width, v.scheme, v.media)
	if _, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Media: v.media, Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: v.scheme}}}); err != nil {
		t.Fatal(err)
	}
	if err := chromedp.Do(ctx, chromedp.EmulateViewport(v.width, 800), chromedp.Navigate("file://"+file)); err != nil {
		t.Fatal(err)
	}
	over, err := chromedp.Run(ctx, chromedp.Evaluate[float64]("document.documentElement.scrollWidth - innerWidth"))
	if err != nil {
		t.Fatal(err)
	}
	if over > 0 {
		t.Errorf("%s: the page is %v px too wide", where, over)
	}
	for _, c := range []struct{ what, js string }{{"runs out of the page", wide}, {"is too small to read", tiny}, {"has a contrast below 4.5 (WCAG AA)", contrast}} {
		found, err := chromedp.Run(ctx, chromedp.Evaluate[[]string](c.js))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			t.Errorf("%s: %s %s", where, f, c.what)
		}
	}
	bg, err := chromedp.Run(ctx, chromedp.Evaluate[string]("getComputedStyle(document.body).backgroundColor"))
	if err != nil {
		t.Fatal(err)
	}
	if bg != v.background {
		t.Errorf("%s: the background is %s", where, bg)
	}
}

// wide lists what is wider than the page, apart from what scrolls by itself;
// nothing scrolls on paper.
const wide = `(() => {
  const paper = matchMedia('print').matches;
  return [...document.querySelectorAll('body *:not(svg *)')].filter(e => !e.closest(paper ? '.skip, details:not([open]), .screen' : '.scroll, pre, .skip, thead') && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.tagName + '.' + e.className + ': ' + e.textContent.slice(0, 40)).slice(0, 5);
})()`

// tiny lists texts in drawings that come out below 8.4 px.
const tiny = `[...document.querySelectorAll('svg')].filter(s => s.getBoundingClientRect().width > 0).flatMap(s => [...s.querySelectorAll('text')].map(x => [parseFloat(getComputedStyle(x).fontSize) * s.getBoundingClientRect().width / s.viewBox.baseVal.width, x.textContent])).filter(p => p[0] < (matchMedia('print').matches ? 7 : 8.4)).map(p => p[1] + ' at ' + p[0])`

// contrast lists texts whose contrast with what is behind them is below 4.5
// (WCAG 2.2, 1.4.3), for page text and for text in drawings alike.
const contrast = `(() => {
  const lum = c => { const f = v => { v /= 255; return v <= 0.03928 ? v / 12.92 : Math.pow((v + 0.055) / 1.055, 2.4) }; return 0.2126 * f(c[0]) + 0.7152 * f(c[1]) + 0.0722 * f(c[2]) };
  const rgb = s => (s.match(/[\d.]+/g) || []).map(Number);
  const behind = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c.length === 3 || c[3] > 0) return c } return [255, 255, 255] };
  const bad = new Set();
  for (const e of document.querySelectorAll('body *:not(path, g)')) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
    const s = getComputedStyle(e), c = rgb(e.closest('svg') ? s.fill : s.color), b = behind(e.closest('svg') ? e.closest('svg').parentElement : e);
    const x = lum(c), y = lum(b), r = (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
    if (r < 4.5) bad.add(r.toFixed(2) + ' ' + e.tagName + ' ' + e.textContent.slice(0, 30));
  }
  return [...bad].slice(0, 5);
})()`
