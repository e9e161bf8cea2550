package report

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/tcpwaitd/tcpwaitd/internal/record"
)

// leaf is one field of a record that is no object itself, found by reflection. It
// serves what is chosen by name and need not be fast.
type leaf struct {
	path  string
	index []int
	typ   reflect.Type
	// omit: zero is unknown, as the record leaves it out.
	omit bool
	// extra: the field is tagged csv:"-", and CSV leaves it out unless it was chosen.
	extra bool
}

// leavesOf lists the fields of a record in its order. schema and kind are not
// among them: they are the same in every row.
func leavesOf[T any]() []leaf { return walk(reflect.TypeFor[T](), "", nil, false) }

func walk(t reflect.Type, prefix string, index []int, extra bool) []leaf {
	var all []leaf
	for i := range t.NumField() {
		field := t.Field(i)
		at := slices.Concat(index, []int{i})
		name, option, _ := strings.Cut(field.Tag.Get("json"), ",")
		inner := field.Type
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		extra := extra || field.Tag.Get("csv") == "-"
		switch {
		case inner == reflect.TypeFor[record.Head]():
		case field.Anonymous:
			all = append(all, walk(inner, prefix, at, extra)...)
		case isObject(inner):
			all = append(all, walk(inner, prefix+name+".", at, extra)...)
		default:
			all = append(all, leaf{prefix + name, at, inner, option != "" && inner.Kind() != reflect.Bool, extra})
		}
	}
	return all
}

func isObject(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && t != reflect.TypeFor[record.Time]() && t != reflect.TypeFor[netip.Addr]()
}

// usualNames is the default of CSV.
func usualNames(fields []leaf) []string {
	return allNames(slices.DeleteFunc(slices.Clone(fields), func(l leaf) bool { return l.extra }))
}

func allNames(fields []leaf) []string {
	names := make([]string, 0, len(fields))
	for _, l := range fields {
		names = append(names, l.path)
	}
	return names
}

// value follows the path; the zero Value is unknown.
func (l *leaf) value(v reflect.Value) reflect.Value {
	for _, i := range l.index {
		if v = reflect.Indirect(v); !v.IsValid() {
			return v
		}
		v = v.Field(i)
	}
	if l.omit && v.IsZero() {
		return reflect.Value{}
	}
	return reflect.Indirect(v)
}

// leafColumn makes a column of the leaf; get gives the record of a row.
func leafColumn[R any](l leaf, get func(R) reflect.Value) column[R] {
	c := column[R]{
		name: l.path,
		text: func(dst []byte, r R) []byte { return appendValue(dst, l.value(get(r))) },
	}
	zero := reflect.Zero(l.typ)
	if zero.CanInt() || zero.CanUint() || zero.CanFloat() {
		c.right = true
		c.number = func(r R) (int64, bool) { return number(l.value(get(r))) }
	}
	return c
}

// appendValue appends a value as text. Lists and maps are written as JSON.
func appendValue(dst []byte, v reflect.Value) []byte {
	if !v.IsValid() {
		return dst
	}
	switch x := v.Interface().(type) {
	case record.Time:
		if x.IsZero() {
			return dst
		}
		return x.UTC().AppendFormat(dst, record.Layout)
	case netip.Addr:
		if !x.IsValid() {
			return dst
		}
		return x.AppendTo(dst)
	}
	switch v.Kind() {
	case reflect.String:
		return append(dst, v.String()...)
	case reflect.Bool:
		return strconv.AppendBool(dst, v.Bool())
	case reflect.Int, reflect.Int32, reflect.Int64:
		return strconv.AppendInt(dst, v.Int(), 10)
	case reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return strconv.AppendUint(dst, v.Uint(), 10)
	case reflect.Float64:
		return strconv.AppendFloat(dst, v.Float(), 'f', -1, 64)
	default:
		return appendJSON(dst, v)
	}
}

func appendJSON(dst []byte, v reflect.Value) []byte {
	if (v.Kind() == reflect.Slice || v.Kind() == reflect.Map) && v.IsNil() {
		return dst
	}
	text, err := json.Marshal(v.Interface())
	if err != nil {
		return dst
	}
	return append(dst, text...)
}

func number(v reflect.Value) (int64, bool) {
	switch {
	case !v.IsValid():
		return 0, false
	case v.CanInt():
		return v.Int(), true
	case v.CanUint():
		return int64(v.Uint()), true
	default:
		// Thousandths are fine enough to sort by.
		return int64(v.Float() * 1000), true
	}
}
