package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// node is a JSON value whose members keep their names as written.
type node struct {
	kind   nodeKind
	text   []byte   // of a scalar as it stands in the document
	names  []string // of an object
	values []node   // of an object or array
}

type nodeKind uint8

const (
	nullNode nodeKind = iota
	falseNode
	trueNode
	numberNode
	stringNode
	arrayNode
	objectNode
)

// empty says that the value asks for nothing.
func (n *node) empty() bool {
	for i, name := range n.names {
		if equalFold(name, "enabled") && n.values[i].kind == falseNode {
			return true
		}
	}
	for i := range n.values {
		if !n.values[i].empty() {
			return false
		}
	}
	switch n.kind {
	case trueNode, numberNode:
		return false
	case stringNode:
		return len(n.text) == len(`""`)
	}
	return true
}

// fits tells whether the value can be one of t.
func (n *node) fits(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Slice:
		return n.kind == arrayNode
	case reflect.Struct:
		return n.kind == objectNode || t == reflect.TypeFor[time.Time]()
	case reflect.Map:
		return n.kind == objectNode
	case reflect.Bool:
		return n.kind == trueNode || n.kind == falseNode
	case reflect.String:
		return n.kind == stringNode
	case reflect.Int32, reflect.Int64:
		_, err := strconv.ParseInt(string(n.text), 10, t.Bits())
		return n.kind == numberNode && err == nil
	}
	return true
}

// String is the value as an error shows it.
func (n *node) String() string {
	switch n.kind {
	case arrayNode:
		return "a list"
	case objectNode, nullNode:
		return "an object"
	case stringNode:
		return strconv.Quote(unquote(n.text))
	}
	return string(n.text)
}

// unquote reads a JSON string; of one that is not valid the text as it stands.
func unquote(text []byte) string {
	if bytes.IndexByte(text, '\\') < 0 {
		return string(text[1 : len(text)-1])
	}
	var s string
	if json.Unmarshal(text, &s) != nil {
		return string(text)
	}
	return s
}

// parse reads a document, which must be an object. It looks at every byte once; what JSON forbids beyond the structure
// is found by encoding/json.
func parse(data []byte) (*node, error) {
	r := &reader{data: data}
	n, err := r.value(nil, 0)
	if errors.Is(err, errStructure) || err == nil && !json.Valid(data) {
		return nil, syntaxError(data)
	}
	if err != nil {
		return nil, err
	}
	if n.kind != objectNode {
		return nil, badJSON("is not an object")
	}
	return &n, nil
}

// errStructure says that the reader cannot go on.
var errStructure = errors.New("no JSON")

// syntaxError says what is wrong with a document that is not JSON.
func syntaxError(data []byte) error {
	var whole json.RawMessage
	err := json.Unmarshal(data, &whole)
	var syntax *json.SyntaxError
	switch {
	case !errors.As(err, &syntax):
		return badJSON("cannot be read: %v", err)
	case int(syntax.Offset) >= len(data) && strings.Contains(syntax.Error(), "end of JSON"):
		return badJSON("ends in the middle")
	case strings.Contains(syntax.Error(), "after top-level value"):
		return badJSON("goes on behind its end")
	}
	return badJSON("is not JSON at byte %d: %v", syntax.Offset, syntax)
}

// reader goes through a document.
type reader struct {
	data []byte
	at   int
}

// next is the next byte that is no white space, 0 at the end; it is not consumed.
func (r *reader) next() byte {
	for ; r.at < len(r.data); r.at++ {
		switch b := r.data[r.at]; b {
		case ' ', '\t', '\r', '\n':
		default:
			return b
		}
	}
	return 0
}

// take consumes the next byte if it is b.
func (r *reader) take(b byte) bool {
	if r.next() != b {
		return false
	}
	r.at++
	return true
}

func (r *reader) value(path *where, depth int) (node, error) {
	if depth > MaxDepth {
		return node{}, badJSON("is nested deeper than %d", MaxDepth)
	}
	switch r.next() {
	case '{':
		return r.object(path, depth)
	case '[':
		return r.array(path, depth)
	case '"':
		text, err := r.text()
		return node{kind: stringNode, text: text}, err
	}
	return r.literal()
}

func (r *reader) object(path *where, depth int) (node, error) {
	n := node{kind: objectNode}
	r.at++
	if r.take('}') {
		return n, nil
	}
	var seen names
	for {
		if r.next() != '"' {
			return n, errStructure
		}
		text, err := r.text()
		if err != nil {
			return n, err
		}
		name := unquote(text)
		here := &where{up: path, name: name}
		if !seen.add(name) {
			return n, NewError(http.StatusBadRequest, CodeInvalidRequest, here.String(), "appears twice")
		}
		if !r.take(':') {
			return n, errStructure
		}
		v, err := r.value(here, depth+1)
		if err != nil {
			return n, err
		}
		n.names, n.values = append(n.names, name), append(n.values, v)
		if r.take('}') {
			return n, nil
		}
		if !r.take(',') {
			return n, errStructure
		}
	}
}

func (r *reader) array(path *where, depth int) (node, error) {
	n := node{kind: arrayNode}
	r.at++
	if r.take(']') {
		return n, nil
	}
	for {
		v, err := r.value(&where{up: path, element: true, index: len(n.values)}, depth+1)
		if err != nil {
			return n, err
		}
		n.values = append(n.values, v)
		if r.take(']') {
			return n, nil
		}
		if !r.take(',') {
			return n, errStructure
		}
	}
}

// text consumes a string with its quotes.
func (r *reader) text() ([]byte, error) {
	for i := r.at + 1; i < len(r.data); i++ {
		switch r.data[i] {
		case '\\':
			i++
		case '"':
			text := r.data[r.at : i+1]
			r.at = i + 1
			return text, nil
		}
	}
	return nil, errStructure
}

// literal consumes a number, true, false or null.
func (r *reader) literal() (node, error) {
	begin := r.at
	for r.at < len(r.data) && !strings.ContainsRune(",]} \t\r\n", rune(r.data[r.at])) {
		r.at++
	}
	n := node{text: r.data[begin:r.at]}
	switch string(n.text) {
	case "null":
	case "true":
		n.kind = trueNode
	case "false":
		n.kind = falseNode
	case "":
		return n, errStructure
	default:
		n.kind = numberNode // or nothing, which json.Valid finds
	}
	return n, nil
}

// names are those of an object, without regard to case. Most objects have a few.
type names struct {
	few  []string
	many map[string]bool // in lower case, of more than fewNames
}

const fewNames = 16

// add is false for a name that is there.
func (n *names) add(name string) bool {
	if n.many == nil {
		for _, other := range n.few {
			if equalFold(other, name) {
				return false
			}
		}
		if n.few = append(n.few, name); len(n.few) <= fewNames {
			return true
		}
		n.many = make(map[string]bool)
		for _, other := range n.few {
			n.many[strings.ToLower(other)] = true
		}
		return true
	}
	fold := strings.ToLower(name)
	if n.many[fold] {
		return false
	}
	n.many[fold] = true
	return true
}
