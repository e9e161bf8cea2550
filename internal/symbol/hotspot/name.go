package hotspot

import "strings"

// Names that are methods but no identifiers.
const (
	constructor = "<init>"
	initializer = "<clinit>"
)

// forbidden are the characters that no name of a class or method has (JVMS 4.2.2). A
// class name has / between its packages.
const (
	forbiddenInClass  = ".;["
	forbiddenInMethod = ".;[/<>"
)

// className turns the name inside of the JVM into the one that programmers know:
// java/lang/String into java.lang.String. The names of hidden classes, lambdas above all,
// end in an address, which differs from process to process and is cut off. It reports
// false for what cannot be the name of a class.
func className(s string) (string, bool) {
	// Inside of the JVM + starts the address of a hidden class, for Java code it is /.
	if i := strings.LastIndexAny(s, "+/"); i > 0 && isAddress(s[i+1:]) {
		s = s[:i]
	}
	if strings.ContainsAny(s, forbiddenInClass) {
		return "", false
	}
	for part := range strings.SplitSeq(s, "/") {
		if part == "" {
			return "", false
		}
	}
	return strings.ReplaceAll(s, "/", "."), true
}

// isAddress recognises 0x0000000800c03000.
func isAddress(s string) bool {
	digits, ok := strings.CutPrefix(s, "0x")
	return ok && digits != "" && strings.Trim(digits, "0123456789abcdef") == ""
}

// isMethodName reports whether a method can be called so.
func isMethodName(s string) bool {
	return s == constructor || s == initializer || s != "" && !strings.ContainsAny(s, forbiddenInMethod)
}
