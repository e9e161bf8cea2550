package symbol

import (
	"cmp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/ianlancetaylor/demangle"
)

const (
	// maxMangled is the longest name that is read from a file, in bytes. Names of deeply
	// nested templates get this long.
	maxMangled = 8 << 10
	// maxName is the longest name that is handed out, in bytes.
	maxName = 512
	// maxDemangledLog2 bounds what the demangler may make of a name: a few hundred bytes
	// can stand for gigabytes.
	maxDemangledLog2 = 14
)

// canonical picks the name a reader knows among the names of one function and makes it
// readable. The C library's close() is close, __close and __libc_close: fewest leading
// underscores first, then exported before local, then the shortest.
func canonical(aliases []alias) string {
	if len(aliases) == 0 {
		return ""
	}
	best := slices.MinFunc(aliases, func(a, b alias) int {
		return cmp.Or(
			cmp.Compare(underscores(a.name), underscores(b.name)),
			cmp.Compare(locality(a.local), locality(b.local)),
			cmp.Compare(len(a.name), len(b.name)),
			cmp.Compare(a.name, b.name),
		)
	})
	return readable(best.name)
}

func locality(local bool) int {
	if local {
		return 1
	}
	return 0
}

// underscores counts leading underscores; that of a mangled name is none.
func underscores(name string) int {
	if strings.HasPrefix(name, "_Z") || strings.HasPrefix(name, "_R") {
		return 0
	}
	return len(name) - len(strings.TrimLeft(name, "_"))
}

// readable demangles a name and takes off what the compiler and the linker added.
func readable(name string) string {
	// close@@GLIBC_2.2.5 in a .symtab; dynamic symbols keep versions elsewhere.
	if at := strings.IndexByte(name, '@'); at > 0 {
		name = name[:at]
	}
	name = stripClone(name)
	if !strings.HasPrefix(name, "_Z") && !strings.HasPrefix(name, "_R") {
		return shorten(name)
	}
	name = demangle.Filter(name, demangle.NoParams, demangle.NoTemplateParams,
		demangle.MaxLength(maxDemangledLog2))
	// What is left of Rust's type arguments when they are left out.
	return shorten(strings.ReplaceAll(name, "::<>", ""))
}

// cloneMarks begin the suffixes of functions that GCC and LLVM copied or moved: the source
// knows them by the name before. Not among them is .part: such a function is a piece that
// the function of that name calls, and the two must be told apart.
var cloneMarks = []string{".cold", ".constprop", ".isra", ".llvm", ".lto_priv", ".localalias", ".__uniq"}

// stripClone takes clone suffixes (".isra.0.cold") off a name.
func stripClone(name string) string {
	for {
		cut := -1
		for _, mark := range cloneMarks {
			if i := strings.LastIndex(name, mark); i > 0 && isCloneEnd(name[i+len(mark):]) {
				cut = max(cut, i)
			}
		}
		if cut < 0 {
			return name
		}
		name = name[:cut]
	}
}

// isCloneEnd reports whether what follows the mark is a number (".0", ".8123456789") or
// nothing.
func isCloneEnd(s string) bool {
	return s == "" || s[0] == '.' && strings.Trim(s[1:], "0123456789") == ""
}

// shorten bounds a name for show.
func shorten(name string) string {
	if len(name) <= maxName {
		return name
	}
	const more = "..."
	name = name[:maxName-len(more)]
	// Not in the middle of a character.
	for range utf8.UTFMax - 1 {
		if r, size := utf8.DecodeLastRuneInString(name); r != utf8.RuneError || size != 1 {
			break
		}
		name = name[:len(name)-1]
	}
	return name + more
}
