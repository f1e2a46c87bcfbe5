package plots

import (
	"fmt"
	"html"
	"image/color"
	"regexp"
	"strings"
)

func hex(c color.RGBA) string { return fmt.Sprintf("#%02X%02X%02X", c.R, c.G, c.B) }

// themed puts the page's own colours in the places of a figure's.
var themed = func() *strings.Replacer {
	pairs := []string{
		hex(ink), "var(--ink)", hex(faint), "var(--faint)", hex(grid), "var(--grid)", hex(paper), "none", hex(haloColour), "var(--paper)",
	}
	for i, l := range looks {
		pairs = append(pairs, hex(l.colour), fmt.Sprintf("var(--c%d)", i))
	}
	return strings.NewReplacer(pairs...)
}()

var (
	svgHead = regexp.MustCompile(`(?s)^.*?<svg [^>]*?viewBox="([^"]*)"[^>]*>`)
	fontSet = regexp.MustCompile(`font-family:Liberation Sans;font-variant:[a-z-]+;font-weight:normal;font-style:normal;`)
)

// inline makes a drawn SVG document fit to stand in the page: no prologue, no
// ids, colours by variables, the page's font. What it shows is said by the
// element around it.
func inline(doc []byte, class string) string {
	s := svgHead.ReplaceAllString(string(doc), `<svg class="fig `+class+`" viewBox="$1" aria-hidden="true" focusable="false">`)
	s = fontSet.ReplaceAllString(s, "")
	s = strings.ReplaceAll(s, "font-family:Liberation Sans;font-size", "font-size")
	s = strings.ReplaceAll(s, "font-family:Liberation Sans;font-variant:none;font-weight:bold;font-style:normal;", "font-weight:bold;")
	s = strings.ReplaceAll(s, "\n\t", " ")
	return themed.Replace(s)
}

// standalone makes a drawn SVG document fit to be a file: with the fonts it
// needs, a title, a description, and no tool's name.
func standalone(doc []byte, title, alt string) ([]byte, error) {
	s := string(doc)
	m := svgHead.FindStringSubmatchIndex(s)
	if m == nil {
		return nil, fmt.Errorf("the drawing is no SVG")
	}
	box := strings.Fields(s[m[2]:m[3]])
	if len(box) != 4 {
		return nil, fmt.Errorf("the drawing has no view box")
	}
	head := fmt.Sprintf(`<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg" width="%s" height="%s" viewBox="%s" role="img" aria-labelledby="title desc">
<title id="title">%s</title>
<desc id="desc">%s</desc>
`, box[2], box[3], strings.Join(box, " "), html.EscapeString(title), html.EscapeString(alt))
	body := s[m[1]:]
	fonts, err := fontFaces(body)
	if err != nil {
		return nil, err
	}
	if fonts != "" {
		fonts = "<style>\n" + fonts + "</style>\n"
	}
	return []byte(head + fonts + body), nil
}
