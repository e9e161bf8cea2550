package hotspot

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestClassName(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"java/io/InputStream", "java.io.InputStream"},
		{"Waits", "Waits"},
		{"a/B$Inner$1", "a.B$Inner$1"},
		{"JSrv$$Lambda$14+0x0000000800c03000", "JSrv$$Lambda$14"},
		{"a/JSrv$$Lambda+0x000000009b040468", "a.JSrv$$Lambda"},
		{"java/lang/invoke/LambdaForm$MH/0x00007f6298000c58", "java.lang.invoke.LambdaForm$MH"},
		{"a/With+Plus", "a.With+Plus"},
		{"a/0xZ", "a.0xZ"},
		{"scala/$plus", "scala.$plus"},
		{"größe/Maß", "größe.Maß"},
		{"", ""},
		{"/", ""},
		{"a//B", ""},
		{"a/B/", ""},
		{"a.B", ""},
		{"[Ljava/lang/String;", ""},
	} {
		got, ok := className(tt.in)
		if got != tt.want || ok != (tt.want != "") {
			t.Errorf("className(%q) = %q, %v, want %q", tt.in, got, ok, tt.want)
		}
	}
}

func TestIsMethodName(t *testing.T) {
	for name, want := range map[string]bool{
		"read": true, "<init>": true, "<clinit>": true, "lambda$main$0": true, "with space": true, "ß": true,
		"": false, "a.b": false, "a/b": false, "<other>": false, "a;": false, "[": false,
	} {
		if got := isMethodName(name); got != want {
			t.Errorf("isMethodName(%q) = %v", name, got)
		}
	}
}

func TestDecodeUTF8(t *testing.T) {
	for _, tt := range []struct {
		in, want string
		ok       bool
	}{
		{"plain", "plain", true},
		{"gr\xc3\xb6\xc3\x9fe", "größe", true},
		{"\xe2\x82\xac", "€", true},
		{"\xed\xa0\xbd\xed\xb8\x80", "😀", true}, // a pair of surrogates
		{"a\xc0\x80b", "a\x00b", true},
		{"a\x00b", "", false},
		{"\xed\xa0\xbd", "", false}, // half a pair
		{"\xed\xa0\xbdx", "", false},
		{"\xed\xb8\x80\xed\xa0\xbd", "", false}, // the wrong way round
		{"\xc3", "", false},
		{"\xe2\x82", "", false},
		{"\x80", "", false},
		{"\xf0\x9f\x98\x80", "", false}, // UTF-8 of four bytes, which Java does not write
	} {
		got, ok := decodeUTF8([]byte(tt.in))
		if got != tt.want || ok != tt.ok {
			t.Errorf("decodeUTF8(%q) = %q, %v, want %q, %v", tt.in, got, ok, tt.want, tt.ok)
		}
	}
}

func FuzzDecodeUTF8(f *testing.F) {
	f.Add([]byte("java/lang/Object"))
	f.Add([]byte("\xed\xa0\xbd\xed\xb8\x80\xc0\x80"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, ok := decodeUTF8(b)
		if ok && !utf8.ValidString(s) {
			t.Errorf("%q became %q", b, s)
		}
		if ascii := strings.Trim(string(b), "abcdefghijklmnopqrstuvwxyz/") == ""; ascii && (!ok || s != string(b)) {
			t.Errorf("%q became %q, %v", b, s, ok)
		}
	})
}
