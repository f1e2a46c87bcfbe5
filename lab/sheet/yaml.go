package sheet

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Bounds of a sheet: real ones are a few KiB and eight levels deep.
const (
	maxBytes = 256 << 10
	maxDepth = 40
	maxKeys  = 1000 // of one map, and problems that are told at once
)

// parseYAML reads one document into nodes. Scalars keep their text; YAML's own
// ways of sharing (anchors, aliases, merge keys) are refused, since profiles
// and arms are a sheet's way, and tags since the key tables say what a value is.
func parseYAML(p *problems, text []byte, src string) (root *node) {
	start := pos{line: 1, col: 1, src: src}
	switch {
	case len(text) > maxBytes:
		p.add(start, "a sheet is a few KiB of YAML", "%d bytes is too long for a sheet", len(text))
		return nil
	case !utf8.Valid(text):
		p.add(start, "save it as UTF-8", "not UTF-8")
		return nil
	case strings.ContainsRune(string(text), 0):
		p.add(start, "a sheet is YAML text", "a NUL byte")
		return nil
	}
	// The parser is known to panic on some malformed input.
	defer func() {
		if r := recover(); r != nil {
			p.add(start, "simplify it", "the YAML cannot be read (%v)", r)
			root = nil
		}
	}()
	// Its time and stack grow with nesting, so that is bounded before it.
	if nesting(text) > 2*maxDepth || strings.Contains(string(text), strings.Repeat("- ", 2*maxDepth)) {
		p.add(start, "a sheet is some eight levels deep", "nested too deeply")
		return nil
	}
	text = bytes.TrimPrefix(text, []byte("\ufeff")) // a byte order mark
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		var e yaml.Error
		if errors.As(err, &e) && e.GetToken() != nil {
			msg, advice := e.GetMessage(), ""
			if m, rest, ok := strings.Cut(msg, " already defined at "); ok {
				msg, advice = strings.Replace(strings.ReplaceAll(m, `"`, "`"), "mapping key", "duplicate key", 1), "it is already at "+strings.Trim(rest, "[]")+": keep one"
			}
			if advice == "" {
				advice = yamlAdvice(msg)
			}
			p.add(tokenPos(e.GetToken(), src), advice, "%s", strings.ReplaceAll(msg, "\t", "\\t"))
			return nil
		}
		p.add(start, "", "the YAML cannot be read: %v", err)
		return nil
	}
	c := converter{p: p, src: src}
	for _, d := range file.Docs {
		if d.Body == nil {
			continue
		}
		if _, ok := d.Body.(*ast.CommentGroupNode); ok {
			continue
		}
		if root != nil {
			p.add(c.at(d.Body), "put it into a file of its own", "a second document")
			return nil
		}
		root = c.convert(d.Body, 0)
	}
	if root == nil && !p.any() {
		p.add(start, "begin with `experiment: NAME`", "the sheet is empty")
	}
	return root
}

// yamlAdvice says what to do about the usual slips.
func yamlAdvice(msg string) string {
	switch {
	case strings.Contains(msg, "\t") || strings.Contains(msg, "tab character"):
		return "indent with spaces, not with a tab"
	case strings.Contains(msg, "'}'") || strings.Contains(msg, "']'"):
		return "close the bracket that was opened before"
	case strings.Contains(msg, "mapping value is not allowed"):
		return "put a text with a colon into quotes"
	}
	return "the YAML is malformed here"
}

// nesting is the deepest flow nesting, so that hostile input does not get to
// the parser's recursion.
func nesting(text []byte) int {
	depth, most := 0, 0
	for _, b := range text {
		switch b {
		case '[', '{':
			if depth++; depth > most {
				most = depth
			}
		case ']', '}':
			if depth > 0 {
				depth--
			}
		}
	}
	return most
}

func tokenPos(t *token.Token, src string) pos {
	if t == nil || t.Position == nil {
		return pos{line: 1, col: 1, src: src}
	}
	return pos{line: t.Position.Line, col: t.Position.Column, src: src}
}

type converter struct {
	p   *problems
	src string
}

func (c converter) at(n ast.Node) pos {
	if m, ok := n.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 {
		return c.at(m.Values[0].Key)
	}
	return tokenPos(n.GetToken(), c.src)
}

func (c converter) convert(n ast.Node, depth int) *node {
	if n == nil {
		return &node{kind: nullNode}
	}
	at := c.at(n)
	if depth > maxDepth {
		c.p.add(at, "a sheet is some eight levels deep", "nested too deeply")
		return &node{kind: nullNode, at: at}
	}
	refuse := func(what string) *node {
		c.p.add(at, "write the value itself: profiles and arms merge into the sheet, so nothing needs to be written twice", "%s", what)
		return &node{kind: nullNode, at: at}
	}
	switch n := n.(type) {
	case *ast.NullNode:
		return &node{kind: nullNode, at: at}
	case *ast.AnchorNode:
		return refuse("a YAML anchor (&)")
	case *ast.AliasNode:
		return refuse("a YAML alias (*)")
	case *ast.MergeKeyNode:
		return refuse("a YAML merge key (<<)")
	case *ast.TagNode:
		c.p.add(at, "leave it out: each key has one form", "a YAML tag (%s)", n.Start.Value)
		return &node{kind: nullNode, at: at}
	case *ast.MappingValueNode:
		return c.mapping(at, []*ast.MappingValueNode{n}, depth)
	case *ast.MappingNode:
		return c.mapping(at, n.Values, depth)
	case *ast.SequenceNode:
		out := &node{kind: listNode, at: at}
		for _, v := range n.Values {
			out.items = append(out.items, c.convert(v, depth+1))
		}
		return out
	case *ast.LiteralNode:
		return &node{kind: scalarNode, at: at, text: n.Value.Value}
	case *ast.StringNode:
		plain := n.Token.Type == token.StringType
		// A folded text's columns are not those of the file.
		inline := !strings.Contains(strings.TrimSpace(n.Token.Origin), "\n")
		return &node{kind: scalarNode, at: at, text: n.Value, plain: plain, inline: inline}
	case ast.ScalarNode:
		return &node{kind: scalarNode, at: at, text: n.GetToken().Value, plain: true, inline: true}
	}
	c.p.add(at, "", "YAML that a sheet does not use (%s)", n.Type())
	return &node{kind: nullNode, at: at}
}

func (c converter) mapping(at pos, values []*ast.MappingValueNode, depth int) *node {
	out := &node{kind: mapNode, at: at}
	if len(values) > maxKeys {
		c.p.add(at, "a sheet's maps have a few keys", "%d keys in one map", len(values))
		return out
	}
	for _, v := range values {
		key, ok := v.Key.(ast.Node)
		if !ok {
			continue
		}
		if k, ok := key.(*ast.MappingKeyNode); ok && k.Value != nil {
			key = k.Value
		}
		k := c.convert(key, depth+1)
		if k.kind != scalarNode {
			if _, merge := key.(*ast.MergeKeyNode); !merge {
				c.p.add(k.at, "write a name", "%s as a key", k.kind)
			}
			continue
		}
		if prev := out.entry(k.text); prev != nil {
			c.p.add(k.at, fmt.Sprintf("it is already at %d:%d: keep one", prev.at.line, prev.at.col), "duplicate key `%s`", k.text)
			continue
		}
		out.keys = append(out.keys, entry{k.text, k.at, c.convert(v.Value, depth+1)})
	}
	return out
}
