package symbol

import (
	"path"
	"strings"
)

// userRank orders frames by how much they say to whoever has to change the program, best
// first.
type userRank uint8

const (
	// rankOwn is the program's own code.
	rankOwn userRank = iota
	// rankLibrary is code of others that the program uses.
	rankLibrary
	// rankStandard is the language's standard library and runtime.
	rankStandard
	// rankEngine is native code of an interpreter or a virtual machine.
	rankEngine
	// rankSystem is libc and its like, the kernel's own code, and what nobody has a name for.
	rankSystem
)

// UserFrame picks the frame that stands for the stack in one line: the innermost of the
// program's own code; if there is none, of libraries, then of the language, then of
// anything above libc. -1 for no frames.
//
// It knows code by names and paths alone, so it can be wrong about a program that is
// installed like a library; it never picks a frame that is not there.
func UserFrame(frames []Frame) int {
	best, bestRank := -1, rankSystem
	managed := isManaged(frames)
	for i := range frames {
		if r := frames[i].userRank(managed); best < 0 || r < bestRank {
			best, bestRank = i, r
		}
	}
	return best
}

// isManaged: code of an interpreted language is on the stack, so the native code around it
// is the interpreter's.
func isManaged(frames []Frame) bool {
	for i := range frames {
		if k := frames[i].Kind; k == Python || k == Java || k == JS {
			return true
		}
	}
	return false
}

func (f *Frame) userRank(managed bool) userRank {
	switch f.Kind {
	case Go:
		return f.goRank()
	case Python:
		return f.pythonRank()
	case Java:
		return f.javaRank()
	case JS:
		return f.jsRank()
	case Signal:
		return rankSystem
	case JIT:
		return f.jitRank(managed)
	default:
		return f.nativeRank(managed)
	}
}

// goRank goes by the import path: in the standard library its first element is one of a
// fixed set. Whether a module is the program's own shows in where its files are.
func (f *Frame) goRank() userRank {
	pkg := goPackage(f.Function)
	first, _, _ := strings.Cut(pkg, "/")
	switch {
	case path.Base(f.File) == "_cgo_gotypes.go", strings.Contains(f.Function, "._Cfunc_"):
		return rankEngine
	case pkg == "main":
		return rankOwn
	case pkg == "", first == "runtime", first == "syscall", first == "internal", strings.Contains(first, ":"):
		// What libc is to C.
		return rankSystem
	case goStandard[first]:
		return rankStandard
	case containsAny(f.File, "/pkg/mod/", "@v", "/vendor/"):
		return rankLibrary
	case f.File == "" && strings.Contains(first, "."):
		return rankLibrary
	default:
		return rankOwn
	}
}

// goPackage cuts the import path off a symbol such as net/http.(*conn).serve; "" if it has
// none.
func goPackage(symbol string) string {
	// Type arguments hold paths of their own.
	symbol, _, _ = strings.Cut(symbol, "[")
	dir := strings.LastIndexByte(symbol, '/') + 1
	dot := strings.IndexByte(symbol[dir:], '.')
	if dot < 0 {
		return ""
	}
	return symbol[:dir+dot]
}

// goStandard are the first elements of the import paths of Go's standard library (go list
// std, Go 1.26) and of its command line tools, without those that are called from everywhere.
var goStandard = setOf("archive bufio builtin bytes cmd cmp compress container context crypto database debug " +
	"embed encoding errors expvar flag fmt go hash html image index io iter log maps math mime net os " +
	"path plugin reflect regexp slices sort strconv strings structs sync testing text time " +
	"unicode unique unsafe vendor weak")

func (f *Frame) pythonRank() userRank {
	switch file := f.File; {
	case file == "", strings.HasPrefix(file, "<frozen "):
		return rankStandard
	case strings.HasPrefix(file, "<"):
		if file == "<string>" || file == "<stdin>" || strings.HasPrefix(file, "<ipython-input") {
			return rankOwn
		}
		// Code made by code, as numpy and attrs do.
		return rankLibrary
	case containsAny(file, "/site-packages/", "/dist-packages/"):
		return rankLibrary
	case containsAny(file, "/lib/python3.", "/lib64/python3."), pythonZip(file):
		return rankStandard
	default:
		return rankOwn
	}
}

// pythonZip: the standard library as one file, .../python311.zip/socket.py.
func pythonZip(file string) bool {
	archive, _, found := strings.Cut(file, ".zip/")
	return found && strings.HasPrefix(path.Base(archive), "python3")
}

func (f *Frame) javaRank() userRank {
	name := f.Function
	switch {
	case !strings.Contains(name, "."):
		// A stub of the virtual machine.
		return rankEngine
	case hasAnyPrefix(name, "jdk.", "sun.", "com.sun.", "$Proxy"):
		return rankEngine
	case hasAnyPrefix(name, "java.", "javax.", "kotlin.", "kotlinx.", "scala.", "groovy.", "clojure."):
		return rankStandard
	case hasAnyPrefix(name, "jakarta.", "org.apache.", "org.eclipse.", "org.springframework.", "org.hibernate.",
		"org.postgresql.", "org.jboss.", "org.glassfish.", "org.slf4j.", "io.netty.", "io.grpc.", "io.vertx.",
		"io.undertow.", "io.micronaut.", "io.quarkus.", "io.lettuce.", "reactor.", "akka.", "okhttp3.", "okio.",
		"retrofit2.", "redis.clients.", "com.mysql.", "com.mongodb.", "com.zaxxer.", "com.fasterxml.",
		"com.google.common.", "com.amazonaws.", "software.amazon.", "ch.qos."):
		return rankLibrary
	default:
		return rankOwn
	}
}

func (f *Frame) jsRank() userRank {
	switch {
	case f.File == "", hasAnyPrefix(f.File, "node:", "internal/", "native "):
		return rankStandard
	case strings.Contains(f.File, "/node_modules/"):
		return rankLibrary
	default:
		return rankOwn
	}
}

// jitRank: what a perf map names is the program's own code, unless it is of a runtime whose
// functions have names of their own on this stack, or spelled as its own.
func (f *Frame) jitRank(managed bool) userRank {
	switch {
	case f.Function == "":
		return rankSystem
	case managed, hasAnyPrefix(f.Function, "Builtin:", "BytecodeHandler:", "Stub:", "RegExp:", "["):
		return rankEngine
	}
	// A Java virtual machine can write perf maps too.
	if r := f.javaRank(); r != rankEngine || strings.Contains(f.Function, ".") {
		return r
	}
	return rankOwn
}

func (f *Frame) nativeRank(managed bool) userRank {
	base := path.Base(f.Module)
	shared := strings.Contains(base, ".so")
	switch {
	case f.Function == "" && f.Module == "", isLibc(base), isSystemCall(f.Function):
		return rankSystem
	case strings.HasPrefix(f.Function, "[stub "), isEngine(base) || containsAny(f.Module, "/jvm/", "/jdk", "/jre", "-jdk", "openjdk"):
		return rankEngine
	case managed && (!shared || isSystemDir(f.Module)):
		return rankEngine
	case managed, containsAny(f.Module, "/site-packages/", "/dist-packages/", "/node_modules/"):
		return rankLibrary
	case hasAnyPrefix(f.Function, "_cgo_", "x_cgo_"):
		return rankEngine
	case shared && isSystemDir(f.Module):
		return rankLibrary
	default:
		return f.compiledRank()
	}
}

// compiledRank goes by the namespace (C++) or crate (Rust), for these are compiled into
// the program, and by the source file, if that is known.
func (f *Frame) compiledRank() userRank {
	space := namespace(f.Function)
	switch {
	case standardSpaces[space], containsAny(f.File, "/rustc/", "/rustlib/"):
		return rankStandard
	case librarySpaces[space], containsAny(f.File, "/cargo/registry/", "/.cargo/", "/vendor/", "/third_party/"):
		return rankLibrary
	default:
		return rankOwn
	}
}

// Rust's own crates and those its std brings along, and the namespaces of C++.
var standardSpaces = setOf("std core alloc proc_macro test compiler_builtins std_detect hashbrown backtrace gimli addr2line " +
	"miniz_oxide rustc_demangle panic_unwind panic_abort __rustc __gnu_cxx __cxxabiv1")

// Crates and namespaces that run or carry other people's servers.
var librarySpaces = setOf("tokio tokio_util mio hyper hyper_util h2 h3 quinn futures futures_core futures_util futures_executor " +
	"tower tower_http axum actix actix_web actix_http actix_rt actix_server warp rocket tonic reqwest rustls native_tls " +
	"openssl socket2 async_std async_io async_executor smol polling rayon rayon_core crossbeam crossbeam_utils parking_lot " +
	"boost asio folly wangle proxygen fizz grpc grpc_core absl google event_base")

// namespace is what stands before the first :: of a demangled name. Of a Rust method of a
// trait (<T as Trait>::f) it is that of the type, or of the trait if the type is a parameter.
func namespace(name string) string {
	if rest, ok := strings.CutPrefix(name, "<"); ok {
		of, trait, _ := strings.Cut(rest, " as ")
		if !strings.Contains(of, "::") {
			of = trait
		}
		for _, ornament := range []string{"<", "&", "*", "mut ", "const ", "dyn ", "(", "["} {
			of = strings.TrimPrefix(of, ornament)
		}
		name = of
	}
	space, _, found := strings.Cut(name[returnType(name):], "::")
	if !found {
		return ""
	}
	return space
}

// returnType is the length of the type that C++ puts before the name of a template's
// instance.
func returnType(name string) int {
	depth, end := 0, 0
	for i := range len(name) {
		switch name[i] {
		case '<', '[', '{':
			depth++
		case '>', ']', '}':
			depth = max(0, depth-1)
		case '(':
			// (anonymous namespace):: opens a name, everything else its arguments.
			if depth == 0 && i > end {
				return end
			}
			depth++
		case ')':
			depth = max(0, depth-1)
		case ' ':
			if depth == 0 {
				end = i + 1
			}
		}
	}
	return end
}

// isLibc: glibc and musl, all of their files.
func isLibc(base string) bool {
	if base == "[vdso]" || strings.HasPrefix(base, "linux-vdso") {
		return true
	}
	name, _, found := strings.Cut(base, ".so")
	if !found {
		return false
	}
	// glibc's files were called libc-2.31.so before 2.34.
	name, _, _ = strings.Cut(name, "-2.")
	return libcFiles[name] || hasAnyPrefix(name, "ld-", "libc.musl-")
}

var libcFiles = setOf("ld ld-linux libc libpthread libm librt libdl libresolv libanl libutil libnsl libnss_files libnss_dns libthread_db")

// isSystemCall knows libc's functions by name, for programs that are linked statically.
func isSystemCall(function string) bool {
	return libcFunctions[function] || hasAnyPrefix(function, "__libc_", "__GI_", "__pthread_", "pthread_", "_dl_", "__syscall", "__internal_syscall")
}

var libcFunctions = setOf("accept accept4 connect listen bind socket shutdown close __close close_nocancel " +
	"read __read pread pread64 readv preadv preadv2 recv recvfrom recvmsg recvmmsg write __write pwrite pwrite64 " +
	"writev pwritev send sendto sendmsg sendmmsg sendfile sendfile64 splice dup dup2 dup3 " +
	"poll __poll ppoll select __select pselect epoll_wait epoll_pwait epoll_pwait2 io_uring_enter syscall " +
	"nanosleep clock_nanosleep sleep usleep wait4 waitpid sigsuspend sigwaitinfo pause sched_yield " +
	"start_thread clone clone3 __clone __clone3 _start raise abort sccp")

// isEngine: the executables and libraries of interpreters and virtual machines.
func isEngine(base string) bool {
	name, _, _ := strings.Cut(base, ".so")
	return engines[strings.TrimRight(name, "0123456789.-t")] || engines[strings.TrimRight(name, "0123456789.-")]
}

var engines = setOf("python libpython node nodejs libnode java libjvm libjli ruby libruby perl libperl php php-fpm php-cgi libphp " +
	"beam.smp dotnet libcoreclr libmono deno bun lua luajit libluajit liblua")

func isSystemDir(module string) bool {
	return hasAnyPrefix(module, "/lib/", "/lib32/", "/lib64/", "/usr/lib/", "/usr/lib32/", "/usr/lib64/", "/usr/local/lib/", "/nix/store/")
}

func containsAny(s string, parts ...string) bool {
	for _, part := range parts {
		if strings.Contains(s, part) {
			return true
		}
	}
	return false
}

func hasAnyPrefix(s string, prefixes ...string) bool {
	for _, prefix := range prefixes {
		if strings.HasPrefix(s, prefix) {
			return true
		}
	}
	return false
}

func setOf(words string) map[string]bool {
	set := map[string]bool{}
	for word := range strings.FieldsSeq(words) {
		set[word] = true
	}
	return set
}
