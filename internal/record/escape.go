package record

import (
	"strconv"
	"unicode/utf8"
)

// Escape makes a string of unknown origin safe to show: what is not printable
// becomes visible in the spelling of Go strings (\n, \x1b, \u202e, and \xff for a
// byte that is not UTF-8), and a backslash is doubled. Nothing is lost: between
// quotes, strconv.Unquote gives the bytes back.
func Escape(s string) string {
	if plain(s) {
		return s
	}
	return string(AppendEscaped(make([]byte, 0, len(s)+16), s))
}

// AppendEscaped appends Escape(s) to dst.
func AppendEscaped[S string | []byte](dst []byte, s S) []byte {
	if plain(s) {
		return append(dst, s...)
	}
	for i := 0; i < len(s); {
		if plainByte(s[i]) {
			dst = append(dst, s[i])
			i++
			continue
		}
		// The conversion of at most four bytes stays on the stack.
		r, size := utf8.DecodeRuneInString(string(s[i:min(i+utf8.UTFMax, len(s))]))
		dst = appendRune(dst, r, size, s[i])
		i += size
	}
	return dst
}

func plain[S string | []byte](s S) bool {
	for i := range len(s) {
		if !plainByte(s[i]) {
			return false
		}
	}
	return true
}

func plainByte(b byte) bool { return ' ' <= b && b < 0x7f && b != '\\' }

func appendRune(dst []byte, r rune, size int, first byte) []byte {
	switch {
	case r == utf8.RuneError && size == 1:
		return append(dst, '\\', 'x', hexDigits[first>>4], hexDigits[first&15])
	case r == '\\':
		return append(dst, '\\', '\\')
	case strconv.IsPrint(r):
		return utf8.AppendRune(dst, r)
	default:
		// strconv knows \n, \x1b, \u202e and \U000e0001; take off its quotes.
		n := len(dst)
		dst = strconv.AppendQuoteRune(dst, r)
		copy(dst[n:], dst[n+1:len(dst)-1])
		return dst[:len(dst)-2]
	}
}

const hexDigits = "0123456789abcdef"

// appendString appends an escaped (hence printable and valid) string as JSON.
func appendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			dst = append(dst, '\\')
		}
		dst = append(dst, s[i])
	}
	return append(dst, '"')
}

// appendRaw escapes what a process chose and appends it as JSON.
func appendRaw(dst, raw []byte) []byte {
	dst = append(dst, '"')
	for _, b := range raw {
		if !plainByte(b) || b == '"' {
			return appendSlow(dst, raw)
		}
	}
	dst = append(dst, raw...)
	return append(dst, '"')
}

// appendSlow is the rest of appendRaw for names with bytes that need care.
func appendSlow(dst, raw []byte) []byte {
	var room [8 * 16]byte
	for _, b := range AppendEscaped(room[:0], raw) {
		if b == '"' || b == '\\' {
			dst = append(dst, '\\')
		}
		dst = append(dst, b)
	}
	return append(dst, '"')
}
