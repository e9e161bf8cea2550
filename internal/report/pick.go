package report

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"

	"github.com/tcpwaitd/tcpwaitd/internal/record"
)

// selection is the chosen part of a record by JSON names; nil is everything.
type selection map[string]selection

// selectPaths builds a selection of dotted paths.
func selectPaths(paths []string) selection {
	root := selection{}
	for _, path := range paths {
		at := root
		names := strings.Split(path, ".")
		for i, name := range names {
			next, seen := at[name]
			if i == len(names)-1 || seen && next == nil {
				at[name] = nil
				break
			}
			if next == nil {
				next = selection{}
				at[name] = next
			}
			at = next
		}
	}
	return root
}

// selectRows keeps a whole document and chooses from the records of one list in it.
func selectRows[T any](list string, rows selection) selection {
	doc := selection{}
	for _, l := range leavesOf[T]() {
		top, _, _ := strings.Cut(l.path, ".")
		doc[top] = nil
	}
	doc[list] = rows
	return doc
}

// marshal is json.Marshal of the chosen part: nested as in the record and in its order.
// The head always stays. A chosen field that is unknown is null.
func (s selection) marshal(v any) ([]byte, error) { return s.append(nil, reflect.ValueOf(v)) }

func (s selection) append(dst []byte, v reflect.Value) ([]byte, error) {
	v = reflect.Indirect(v)
	switch {
	case !v.IsValid():
		return append(dst, "null"...), nil
	case s == nil:
		text, err := compact(v.Interface())
		return append(dst, text...), err
	case v.Kind() == reflect.Slice:
		return s.appendList(dst, v)
	case v.Kind() != reflect.Struct:
		// A map of counts is shown whole.
		return selection(nil).append(dst, v)
	}
	dst = append(dst, '{')
	dst, err := s.appendFields(dst, v)
	return append(dst, '}'), err
}

func (s selection) appendList(dst []byte, v reflect.Value) (_ []byte, err error) {
	dst = append(dst, '[')
	for i := range v.Len() {
		if i > 0 {
			dst = append(dst, ',')
		}
		if dst, err = s.append(dst, v.Index(i)); err != nil {
			return dst, err
		}
	}
	return append(dst, ']'), nil
}

func (s selection) appendFields(dst []byte, v reflect.Value) (_ []byte, err error) {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		name, omit, _ := strings.Cut(field.Tag.Get("json"), ",")
		sub, chosen := s[name]
		switch {
		case field.Type == reflect.TypeFor[record.Head]():
			text, err := compact(v.Field(i).Interface())
			if err != nil {
				return dst, err
			}
			dst = append(dst, bytes.Trim(text, "{}")...)
		case field.Anonymous:
			if dst, err = s.appendFields(dst, v.Field(i)); err != nil {
				return dst, err
			}
		case chosen:
			if dst[len(dst)-1] != '{' {
				dst = append(dst, ',')
			}
			dst = append(append(append(dst, '"'), name...), `":`...)
			if omit != "" && v.Field(i).IsZero() && field.Type.Kind() != reflect.Bool {
				dst = append(dst, "null"...)
			} else if dst, err = sub.append(dst, v.Field(i)); err != nil {
				return dst, err
			}
		}
	}
	return dst, nil
}

// compact is json.Marshal without HTML escapes: nothing here goes into a page.
func compact(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), err
}
