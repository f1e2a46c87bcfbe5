package sheet

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"sort"
	"strings"
)

// Schema is the JSON Schema (2020-12) of sheets, made from the key tables that
// the decoder uses. It knows keys and forms; what needs the whole sheet to be
// seen (names, expressions, which kind has which key) is the decoder's.
func Schema() ([]byte, error) {
	g := schemaMaker{defs: map[string]any{}}
	root := g.of(sheetKey, false)
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["title"] = "A tcplab sheet: one experiment"
	root["$defs"] = g.defs
	var b bytes.Buffer
	if err := writeJSON(&b, root, ""); err != nil {
		return nil, err
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

// writeJSON writes with sorted keys, what is short on one line.
func writeJSON(b *bytes.Buffer, v any, indent string) error {
	line, err := encodeJSON(v)
	if err != nil {
		return err
	}
	m, isObject := v.(object)
	if !isObject || len(indent)+len(line) < 150 {
		b.Write(line)
		return nil
	}
	keys := slices.Sorted(maps.Keys(m))
	b.WriteString("{\n")
	for i, k := range keys {
		name, err := encodeJSON(k)
		if err != nil {
			return err
		}
		b.WriteString(indent + " " + string(name) + ": ")
		if err := writeJSON(b, m[k], indent+" "); err != nil {
			return err
		}
		if i < len(keys)-1 {
			b.WriteByte(',')
		}
		b.WriteByte('\n')
	}
	b.WriteString(indent + "}")
	return nil
}

// encodeJSON leaves < and > as they are: people read this file.
func encodeJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSpace(b.Bytes()), err
}

type schemaMaker struct{ defs map[string]any }

type object = map[string]any

const (
	numberPattern = `-?[0-9][0-9_]*(\.[0-9]+)?([eE][+-]?[0-9]+)?`
	timeUnits     = `(ns|us|µs|μs|ms|s|min|h|d)`
	dataUnits     = `(B|kB|MB|GB|KiB|MiB|GiB|bit|kbit|Mbit|Gbit)`
)

func pattern(p string) object { return object{"type": "string", "pattern": "^" + p + "$"} }

// anyOf joins alternatives; one alone is itself.
func anyOf(schemas ...any) object {
	if len(schemas) == 1 {
		return schemas[0].(object)
	}
	return object{"anyOf": schemas}
}

// of is the schema of a value. In a patch a null deletes.
func (g schemaMaker) of(k Key, patch bool) object {
	patch = patch || k.Patch
	alternatives := []any{g.form(k, patch)}
	for _, o := range k.Or {
		if o.Name == "" {
			o.Name = k.Name
		}
		alternatives = append(alternatives, g.form(o, patch))
	}
	if patch || (k.Patch && k.Form == FormMap) {
		alternatives = append(alternatives, object{"type": "null"})
	}
	out := anyOf(alternatives...)
	if k.About == "" || k.Name == "" {
		return out
	}
	about := k.About
	if k.Default != "" {
		about += ". Default: " + k.Default
	}
	out["description"] = about
	return out
}

// form is the schema of one form. Simple forms without bounds of their own, and
// all maps, are defined once.
func (g schemaMaker) form(k Key, patch bool) object {
	switch k.Form {
	case FormDuration, FormRate, FormBitRate, FormSize, FormShare, FormQuantity, FormFlag, FormName, FormEvent, FormText, FormValue:
		return g.define(strings.ReplaceAll(string(k.Form), " ", "-"), g.written(k, patch))
	}
	return g.written(k, patch)
}

// define names a schema, once for all that are equal.
func (g schemaMaker) define(name string, schema object) object {
	for id := name; ; id += "-" {
		old, taken := g.defs[id]
		if !taken {
			g.defs[id] = schema
		}
		if !taken || equalJSON(old, schema) {
			return object{"$ref": "#/$defs/" + id}
		}
	}
}

func (g schemaMaker) written(k Key, patch bool) object {
	text := []any{"string", "number", "boolean"} // YAML takes 8 and true for themselves
	switch k.Form {
	case FormDuration:
		return anyOf(pattern(numberPattern+timeUnits), zeroSchema())
	case FormRate:
		return pattern(numberPattern + `/` + timeUnits)
	case FormBitRate:
		return pattern(numberPattern + dataUnits + `/` + timeUnits)
	case FormSize:
		return anyOf(pattern(numberPattern+dataUnits), zeroSchema())
	case FormShare:
		return anyOf(pattern(numberPattern+`%`), zeroSchema())
	case FormCount:
		n := object{"type": "integer"}
		if k.Min != nil {
			n["minimum"] = *k.Min
		}
		if k.Max != nil {
			n["maximum"] = *k.Max
		}
		return anyOf(n, pattern(`[0-9][0-9_]*([eE][0-9]+)?`))
	case FormQuantity:
		return anyOf(pattern(numberPattern+`(%|`+timeUnits+`|`+dataUnits+`)?(/`+timeUnits+`)?`), object{"type": "number"})
	case FormFlag:
		return object{"enum": []any{true, false, "true", "false"}}
	case FormWord:
		words := k.Words
		if k.Role != "" {
			words = kindNames(k.Role)
		}
		if len(words) > 0 {
			return object{"enum": anys(words)}
		}
		return pattern(`[A-Za-z0-9_][A-Za-z0-9_.:+-]*( [A-Za-z0-9_-]+)*`)
	case FormName:
		return pattern(strings.Trim(nameForm.String(), "^$"))
	case FormPath, FormCondition:
		return object{"type": "string", "minLength": 1}
	case FormNumber:
		return object{"type": []any{"string", "number"}}
	case FormEvent:
		return pattern(`[A-Za-z_][A-Za-z0-9_]*(\s*\+\s*\S+)?`)
	case FormList:
		return object{"type": "array", "items": g.of(*k.Of, false)}
	case FormAny:
		return object{"type": "object"}
	case FormNamed:
		return g.named(k, patch)
	case FormMap:
		return g.fixed(k, patch)
	}
	return object{"type": text}
}

func zeroSchema() object { return object{"enum": []any{0, "0"}} }

func anys(words []string) []any {
	out := make([]any, len(words))
	for i, w := range words {
		out[i] = w
	}
	return out
}

func (g schemaMaker) named(k Key, patch bool) object {
	out := object{"type": "object"}
	switch {
	case k.Name == "options":
		out["properties"] = g.properties(socketOptions, patch)
		out["additionalProperties"] = false
		if patch {
			return g.define("options-patch", out)
		}
		return g.define("options", out)
	case k.Name == "profiles":
		out["propertyNames"] = object{"enum": anys(profileNames)}
	case k.Name == "sysctl":
		out["propertyNames"] = pattern(strings.Trim(sysctlName.String(), "^$"))
	case k.Identifier:
		out["propertyNames"] = pattern(`[A-Za-z_][A-Za-z0-9_]*`)
	default:
		out["propertyNames"] = object{"minLength": 1}
	}
	out["additionalProperties"] = g.of(*k.Of, patch)
	if patch {
		return g.define(k.Name+"-patch", out)
	}
	return g.define(k.Name, out)
}

// fixed is a map with known keys. Those that a kind brings are allowed for all.
func (g schemaMaker) fixed(k Key, patch bool) object {
	name := k.Name
	if name == "" {
		name = strings.ReplaceAll(strings.TrimPrefix(strings.TrimPrefix(k.About, "a "), "an "), " ", "_")
	}
	build := func() object {
		out := object{"type": "object", "additionalProperties": false}
		keys := k.Keys
		if k.Role != "" {
			keys = keysFor(k, "")
		}
		out["properties"] = g.properties(keys, patch)
		if required := g.required(k); len(required) > 0 && !patch {
			out["required"] = required
		}
		return out
	}
	if k.About == "a sheet" || name == "" {
		return build()
	}
	if patch {
		name += "-patch"
	}
	return g.define(name, build())
}

// required are the keys that may not be left to a later layer: a sheet's own,
// and those of what is never merged (a list's elements).
func (g schemaMaker) required(k Key) []string {
	var out []string
	switch k.About {
	case "a sheet", "a call", "a route":
		for _, sub := range k.Keys {
			if sub.Required {
				out = append(out, sub.Name)
			}
		}
	}
	sort.Strings(out)
	return out
}

// properties are the schemas of keys. A key that several kinds have in several
// forms may have any of them.
func (g schemaMaker) properties(keys []Key, patch bool) object {
	out := object{}
	for _, k := range keys {
		out[k.Name] = g.of(k, patch)
	}
	return out
}

func equalJSON(a, b any) bool {
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && string(x) == string(y)
}
