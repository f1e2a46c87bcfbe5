package expr

import (
	"strings"
	"unicode/utf8"
)

type kind uint8

const (
	kindEnd    kind = iota
	kindNumber      // with its unit
	kindName
	kindPath
	kindOp // operators, brackets, keywords
)

type token struct {
	kind kind
	text string // as written
	col  int    // 1-based
	val  Value  // kindNumber
	path Path   // kindPath
}

func (t token) String() string {
	if t.kind == kindEnd {
		return "the end"
	}
	return t.text
}

var operators = []string{"..", "<=", ">=", "==", "!=", "<", ">", "+", "-", "*", "/", "(", ")", ","}

// foreign are the operators of other languages, with ours.
var foreign = []struct{ text, advice string }{
	{"&&", "write and"}, {"||", "write or"}, {"**", "write x * x"}, {"=>", "write >="}, {"=<", "write <="},
	{"<>", "write !="}, {"=", "write == to compare"}, {"!", "write not"}, {"≤", "write <="}, {"≥", "write >="},
	{"≠", "write !="}, {"×", "write *"}, {"÷", "write /"}, {"·", "write *"}, {"−", "write -"}, {"…", "write LOW..HIGH"},
	{"–", "write - to subtract, LOW..HIGH for a range"},
	{"^", "write x * x, or sqrt(x)"}, {"@", "a fault follows its metric without a space: detect.time@forget"},
	{"%", "a percentage is written without a space: 5%"}, {"[", "a bracket follows a name without a space: arm[loss=1%]"},
	{".", "write 0.5, LOW..HIGH or ARM.METRIC"},
}

var keywords = map[string]bool{"and": true, "or": true, "not": true, "in": true}

// lex cuts src into tokens; the last is kindEnd.
func lex(src string) ([]token, *Error) {
	var out []token
	i := 0
	for {
		for i < len(src) && strings.IndexByte(" \t\r\n", src[i]) >= 0 {
			i++
		}
		if i == len(src) {
			return append(out, token{kind: kindEnd, col: i + 1}), nil
		}
		t, end, err := lexOne(src, i)
		if err != nil {
			return nil, err
		}
		if n := len(out); n > 0 && out[n-1].kind == kindNumber && (t.kind == kindName || t.kind == kindNumber) {
			return nil, afterNumber(out[n-1], t)
		}
		out = append(out, t)
		i = end
	}
}

func lexOne(src string, i int) (token, int, *Error) {
	rest := src[i:]
	switch c := src[i]; {
	case isDigit(c):
		v, size, err := scanQuantity(rest)
		if err != nil {
			err.Col += i
			return token{}, 0, err
		}
		return token{kind: kindNumber, text: rest[:size], col: i + 1, val: v}, i + size, nil
	case isLetter(c):
		p, end, ok, err := scanPath(src, i)
		if err != nil {
			return token{}, 0, err
		}
		t := token{kind: kindPath, text: src[i:end], col: i + 1, path: p}
		if ok {
			return t, end, nil
		}
		t.kind = kindName
		if keywords[t.text] {
			t.kind = kindOp
		}
		return t, end, nil
	}
	// Longest match over both lists: == is ours, = alone is not.
	for _, length := range []int{3, 2, 1} {
		for _, op := range operators {
			if len(op) == length && strings.HasPrefix(rest, op) {
				return token{kind: kindOp, text: op, col: i + 1}, i + length, nil
			}
		}
		for _, f := range foreign {
			if len(f.text) == length && strings.HasPrefix(rest, f.text) {
				return token{}, 0, errAt(i+1, f.advice, "%s is no operator here", f.text)
			}
		}
	}
	_, size := utf8.DecodeRuneInString(rest)
	return token{}, 0, errAt(i+1, "names are letters, digits and _", "%q does not belong in an expression", rest[:size])
}

// afterNumber explains two operands in a row of which the first is a number.
func afterNumber(number, next token) *Error {
	if _, ok := atoms[next.text]; ok {
		return errAt(next.col, "write "+number.text+next.text, "a space between a number and its unit")
	}
	return errAt(next.col, "write an operator between them", "%s follows %s", next, number)
}
