package plots

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"html"
	"regexp"
	"sort"
	"strings"

	xfont "golang.org/x/image/font"
	"golang.org/x/image/font/sfnt"
	"gonum.org/v1/plot/font"
)

// An SVG file bears the glyphs that it uses, and no others: a whole Liberation
// Sans would make a 10 KB figure half a megabyte.

var textElement = regexp.MustCompile(`(?s)<text[^>]*style="([^"]*)"[^>]*>([^<]*)</text>`)

// faces are the fonts that figures use, in the order in which they are
// embedded.
var faces = []struct {
	css  string
	font font.Font
	has  func(style string) bool
}{
	{"font-weight:normal;font-style:normal", font.Font{Typeface: "Liberation", Variant: "Sans"}, func(s string) bool { return !bold(s) && !italic(s) }},
	{"font-weight:bold;font-style:normal", font.Font{Typeface: "Liberation", Variant: "Sans", Weight: xfont.WeightBold}, func(s string) bool { return bold(s) }},
	{"font-weight:normal;font-style:italic", font.Font{Typeface: "Liberation", Variant: "Sans", Style: xfont.StyleItalic}, func(s string) bool { return !bold(s) && italic(s) }},
}

func bold(style string) bool   { return strings.Contains(style, "font-weight:bold") }
func italic(style string) bool { return strings.Contains(style, "font-style:italic") }

// fontFaces gives the CSS with the fonts that a drawing's texts need; "" for a
// drawing without text. It is the font that widths were measured in: in
// another one a label can run over what stands beside it.
func fontFaces(body string) (string, error) {
	var b strings.Builder
	for _, f := range faces {
		used := map[rune]bool{}
		for _, m := range textElement.FindAllStringSubmatch(body, -1) {
			if f.has(m[1]) {
				for _, r := range html.UnescapeString(m[2]) {
					used[r] = true
				}
			}
		}
		if len(used) == 0 {
			continue
		}
		data, err := subset(font.DefaultCache.Lookup(f.font, 12), used)
		if err != nil {
			return "", fmt.Errorf("embedding the font: %w", err)
		}
		fmt.Fprintf(&b, "@font-face{font-family:\"Liberation Sans\";%s;src:url(data:font/ttf;base64,%s)}\n", f.css, base64.StdEncoding.EncodeToString(data))
	}
	return b.String(), nil
}

// subset cuts a TrueType font down to some characters. Glyphs keep their
// numbers, so composite glyphs and metrics stay as they are; the tables are
// those that browsers demand (OpenType 1.9, "Required tables").
func subset(face font.Face, runes map[rune]bool) ([]byte, error) {
	var raw bytes.Buffer
	if _, err := face.Face.WriteSourceTo(nil, &raw); err != nil {
		return nil, err
	}
	in, err := tables(raw.Bytes())
	if err != nil {
		return nil, err
	}
	var buf sfnt.Buffer
	type pair struct {
		r rune
		g uint16
	}
	var chars []pair
	keep := map[uint16]bool{0: true}
	for r := range runes {
		g, err := face.Face.GlyphIndex(&buf, r)
		if err != nil {
			return nil, err
		}
		if g != 0 && r < 0xFFFF {
			chars = append(chars, pair{r, uint16(g)})
			keep[uint16(g)] = true
		}
	}
	sort.Slice(chars, func(i, j int) bool { return chars[i].r < chars[j].r })

	loca, glyf := in["loca"], in["glyf"]
	long := binary.BigEndian.Uint16(in["head"][50:]) == 1
	glyph := func(g uint16) ([]byte, error) {
		i := int(g)
		var a, b int
		switch {
		case long && len(loca) >= 4*i+8:
			a, b = int(binary.BigEndian.Uint32(loca[4*i:])), int(binary.BigEndian.Uint32(loca[4*i+4:]))
		case !long && len(loca) >= 2*i+4:
			a, b = 2*int(binary.BigEndian.Uint16(loca[2*i:])), 2*int(binary.BigEndian.Uint16(loca[2*i+2:]))
		default:
			return nil, fmt.Errorf("glyph %d is out of range", g)
		}
		if a > b || b > len(glyf) {
			return nil, fmt.Errorf("glyph %d has no outline", g)
		}
		return glyf[a:b], nil
	}
	// A composite glyph brings its parts.
	for todo := sortedGlyphs(keep); len(todo) > 0; {
		d, err := glyph(todo[0])
		if err != nil {
			return nil, err
		}
		todo = todo[1:]
		for _, part := range components(d) {
			if !keep[part] {
				keep[part] = true
				todo = append(todo, part)
			}
		}
	}
	glyphs := sortedGlyphs(keep)
	n := int(glyphs[len(glyphs)-1]) + 1

	out := map[string][]byte{}
	for _, t := range []string{"OS/2", "name", "cvt ", "fpgm", "prep"} {
		if in[t] != nil {
			out[t] = in[t]
		}
	}
	var newGlyf []byte
	newLoca := make([]byte, 4*(n+1))
	for g := range n {
		binary.BigEndian.PutUint32(newLoca[4*g:], uint32(len(newGlyf)))
		if keep[uint16(g)] {
			d, err := glyph(uint16(g))
			if err != nil {
				return nil, err
			}
			newGlyf = append(newGlyf, d...)
			for len(newGlyf)%4 != 0 {
				newGlyf = append(newGlyf, 0)
			}
		}
	}
	binary.BigEndian.PutUint32(newLoca[4*n:], uint32(len(newGlyf)))
	out["glyf"], out["loca"] = newGlyf, newLoca

	head := bytes.Clone(in["head"])
	binary.BigEndian.PutUint16(head[50:], 1) // long offsets
	binary.BigEndian.PutUint32(head[8:], 0)  // checkSumAdjustment: below
	out["head"] = head
	maxp := bytes.Clone(in["maxp"])
	binary.BigEndian.PutUint16(maxp[4:], uint16(n))
	out["maxp"] = maxp
	metrics := int(binary.BigEndian.Uint16(in["hhea"][34:]))
	hhea := bytes.Clone(in["hhea"])
	hm := min(metrics, n)
	binary.BigEndian.PutUint16(hhea[34:], uint16(hm))
	out["hhea"] = hhea
	size := 4*hm + 2*(n-hm)
	if len(in["hmtx"]) < size {
		return nil, fmt.Errorf("the font's metrics are short")
	}
	out["hmtx"] = in["hmtx"][:size]
	post := bytes.Clone(in["post"][:32])
	binary.BigEndian.PutUint32(post, 0x00030000) // no glyph names
	out["post"] = post

	// cmap format 4: a segment for each character, and the last that the
	// format demands.
	segs := len(chars) + 1
	power, exp := 1, 0
	for power*2 <= segs {
		power, exp = power*2, exp+1
	}
	var c []byte
	put := func(vs ...int) {
		for _, v := range vs {
			c = binary.BigEndian.AppendUint16(c, uint16(v))
		}
	}
	put(0, 1, 3, 1, 0, 12) // one table: Windows, Unicode BMP, 12 bytes on
	put(4, 16+8*segs, 0, 2*segs, 2*power, exp, 2*(segs-power))
	for _, ch := range chars {
		put(int(ch.r))
	}
	put(0xFFFF, 0)
	for _, ch := range chars {
		put(int(ch.r))
	}
	put(0xFFFF)
	for _, ch := range chars {
		put(int(ch.g) - int(ch.r))
	}
	put(1)
	for range segs {
		put(0)
	}
	out["cmap"] = c
	return assemble(out), nil
}

func sortedGlyphs(m map[uint16]bool) []uint16 {
	var gs []uint16
	for g := range m {
		gs = append(gs, g)
	}
	sort.Slice(gs, func(i, j int) bool { return gs[i] < gs[j] })
	return gs
}

// components lists the parts of a composite glyph (glyf table, negative
// number of contours).
func components(d []byte) []uint16 {
	if len(d) < 10 || int16(binary.BigEndian.Uint16(d)) >= 0 {
		return nil
	}
	var parts []uint16
	for i := 10; i+4 <= len(d); {
		flags := binary.BigEndian.Uint16(d[i:])
		parts = append(parts, binary.BigEndian.Uint16(d[i+2:]))
		i += 6
		if flags&0x0001 != 0 { // arguments are words
			i += 2
		}
		switch {
		case flags&0x0008 != 0: // one scale
			i += 2
		case flags&0x0040 != 0: // two
			i += 4
		case flags&0x0080 != 0: // a matrix
			i += 8
		}
		if flags&0x0020 == 0 { // no more parts
			break
		}
	}
	return parts
}

// tables takes a TrueType file apart.
func tables(d []byte) (map[string][]byte, error) {
	if len(d) < 12 {
		return nil, fmt.Errorf("no TrueType font")
	}
	out := map[string][]byte{}
	for i := range int(binary.BigEndian.Uint16(d[4:])) {
		r := 12 + 16*i
		if r+16 > len(d) {
			return nil, fmt.Errorf("the font's directory is short")
		}
		off, n := int(binary.BigEndian.Uint32(d[r+8:])), int(binary.BigEndian.Uint32(d[r+12:]))
		if off+n > len(d) {
			return nil, fmt.Errorf("table %q is short", d[r:r+4])
		}
		out[string(d[r:r+4])] = d[off : off+n]
	}
	for t, least := range map[string]int{"head": 54, "hhea": 36, "maxp": 6, "hmtx": 4, "loca": 4, "glyf": 1, "post": 32} {
		if len(out[t]) < least {
			return nil, fmt.Errorf("table %q is missing", t)
		}
	}
	return out, nil
}

func checksum(d []byte) uint32 {
	var sum uint32
	for i := 0; i < len(d); i += 4 {
		var w [4]byte
		copy(w[:], d[i:])
		sum += binary.BigEndian.Uint32(w[:])
	}
	return sum
}

// assemble writes a TrueType file of tables.
func assemble(ts map[string][]byte) []byte {
	names := sortedKeys(ts)
	power, exp := 1, 0
	for power*2 <= len(names) {
		power, exp = power*2, exp+1
	}
	var dir, body []byte
	dir = append(dir, 0, 1, 0, 0)
	for _, v := range []int{len(names), 16 * power, exp, 16 * (len(names) - power)} {
		dir = binary.BigEndian.AppendUint16(dir, uint16(v))
	}
	start := 12 + 16*len(names)
	head := 0
	for _, n := range names {
		if n == "head" {
			head = start + len(body)
		}
		dir = append(dir, n...)
		for _, v := range []uint32{checksum(ts[n]), uint32(start + len(body)), uint32(len(ts[n]))} {
			dir = binary.BigEndian.AppendUint32(dir, v)
		}
		body = append(body, ts[n]...)
		for len(body)%4 != 0 {
			body = append(body, 0)
		}
	}
	out := append(dir, body...)
	binary.BigEndian.PutUint32(out[head+8:], 0xB1B0AFBA-checksum(out))
	return out
}
