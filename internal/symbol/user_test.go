package symbol

import (
	"strings"
	"testing"
)

// Stacks are written innermost first, one frame a word: KIND:FUNCTION@FILE^MODULE, where file
// and module may be left out and ~ stands for a space.
func stackOf(t *testing.T, text string) []Frame {
	t.Helper()
	kinds := map[string]Kind{"n": Native, "g": Go, "p": Python, "j": Java, "s": JS, "jit": JIT, "sig": Signal}
	var frames []Frame
	for _, word := range strings.Fields(text) {
		kind, rest, found := strings.Cut(word, ":")
		if !found || kinds[kind] == "" {
			t.Fatalf("frame %q has no kind", word)
		}
		f := Frame{Kind: kinds[kind]}
		rest, f.Module, _ = strings.Cut(strings.ReplaceAll(rest, "~", " "), "^")
		f.Function, f.File, _ = strings.Cut(rest, "@")
		frames = append(frames, f)
	}
	return frames
}

const (
	libc   = "^/usr/lib/x86_64-linux-gnu/libc.so.6"
	nginx  = "^/usr/sbin/nginx"
	redis  = "^/usr/bin/redis-server"
	node   = "^/usr/bin/node"
	python = "^/usr/bin/python3.11"
	jvm    = "^/usr/lib/jvm/java-17-openjdk-amd64/lib/server/libjvm.so"
	goroot = "@/usr/local/go/src/"
	mod    = "@/home/dev/go/pkg/mod/"
)

func TestUserFrame(t *testing.T) {
	for _, tt := range []struct{ name, want, stack string }{
		{"C, accept", "do_accept", "n:accept4" + libc + " n:do_accept^/srv/csrv n:next_client^/srv/csrv n:serve_forever^/srv/csrv n:main^/srv/csrv n:__libc_start_call_main" + libc + " n:_start^/srv/csrv"},
		{"C, EOF", "read_request", "n:recv" + libc + " n:read_request^/srv/csrv n:parse_loop^/srv/csrv n:main^/srv/csrv"},
		{"C, close", "drop_client", "n:close" + libc + " n:drop_client^/srv/csrv n:handle_client^/srv/csrv"},
		{"C, static", "do_accept", "n:accept4^/srv/csrv n:do_accept^/srv/csrv n:main^/srv/csrv n:__libc_start_call_main^/srv/csrv n:_start^/srv/csrv"},
		{"C, glibc before 2.34", "do_accept", "n:accept4^/lib/x86_64-linux-gnu/libpthread-2.31.so n:do_accept^/srv/csrv n:__libc_start_main^/lib/x86_64-linux-gnu/libc-2.31.so"},
		{"C, musl", "do_accept", "n:__syscall_cp_c^/lib/ld-musl-x86_64.so.1 n:accept4^/lib/ld-musl-x86_64.so.1 n:do_accept^/srv/csrv"},
		{"C, libc without names", "do_accept", "n:" + libc + " n:do_accept^/srv/csrv"},
		{"C, stripped", "^/srv/csrv", "n:accept4" + libc + " n:^/srv/csrv n:^/srv/csrv"},
		{"C, signal handler", "in_handler", "n:close" + libc + " n:in_handler^/srv/csrv n:handler^/srv/csrv sig: n:spin_inner^/srv/csrv n:main^/srv/csrv"},
		{"C, vdso", "tick", "n:clock_gettime^[vdso] n:clock_gettime" + libc + " n:tick^/srv/csrv"},
		{"C, system library between", "fetch", "n:recv" + libc + " n:Curl_recv^/usr/lib/x86_64-linux-gnu/libcurl.so.4 n:curl_easy_perform^/usr/lib/x86_64-linux-gnu/libcurl.so.4 n:fetch^/opt/app/bin/app n:main^/opt/app/bin/app"},
		{"C, own library", "core_read", "n:recv" + libc + " n:core_read^/opt/app/lib/libcore.so.1 n:main^/opt/app/bin/app"},
		{"C, only libraries", "SSL_read", "n:read" + libc + " n:SSL_read^/usr/lib/x86_64-linux-gnu/libssl.so.3 n:start_thread" + libc},
		{"nginx, accept", "ngx_event_accept", "n:accept4" + libc + " n:ngx_event_accept" + nginx + " n:ngx_process_events_and_timers" + nginx + " n:ngx_master_process_cycle" + nginx + " n:main" + nginx},
		{"nginx, EOF", "ngx_unix_recv", "n:recv" + libc + " n:ngx_unix_recv" + nginx + " n:ngx_http_wait_request_handler" + nginx},
		{"nginx, proxy_pass", "ngx_event_connect_peer", "n:connect" + libc + " n:ngx_event_connect_peer" + nginx + " n:ngx_http_upstream_connect" + nginx},
		{"nginx, close", "ngx_close_connection", "n:close" + libc + " n:ngx_close_connection" + nginx + " n:ngx_http_close_connection" + nginx},
		{"redis, accept", "anetTcpAccept", "n:accept4" + libc + " n:anetTcpAccept" + redis + " n:acceptTcpHandler" + redis + " n:aeMain" + redis + " n:main" + redis},
		{"redis, EOF", "readQueryFromClient", "n:read" + libc + " n:readQueryFromClient" + redis + " n:aeMain" + redis},
		{"openssl s_server, stripped", "^/usr/bin/openssl", "n:close" + libc + " n:BIO_closesocket^/usr/lib/x86_64-linux-gnu/libcrypto.so.3 n:^/usr/bin/openssl n:^/usr/bin/openssl"},
		{"postgres", "secure_raw_read", "n:recv" + libc + " n:secure_raw_read^/usr/lib/postgresql/15/bin/postgres n:PostgresMain^/usr/lib/postgresql/15/bin/postgres"},

		{"Go, accept", "main.acceptLoop", "g:syscall.accept4" + goroot + "syscall/zsyscall_linux_amd64.go g:syscall.Accept4" + goroot + "syscall/syscall_linux.go g:internal/poll.accept" + goroot + "internal/poll/sock_cloexec.go g:internal/poll.(*FD).Accept" + goroot + "internal/poll/fd_unix.go g:net.(*netFD).accept" + goroot + "net/fd_unix.go g:main.acceptLoop@/src/gosrv/main.go g:runtime.goexit" + goroot + "runtime/asm_amd64.s"},
		{"Go, EOF", "main.leakHandler", "g:syscall.read g:internal/poll.(*FD).Read g:net.(*netFD).Read g:net.(*conn).Read g:main.leakHandler"},
		{"Go, buffered", "main.(*proxy).pump", "g:internal/runtime/syscall.Syscall6 g:syscall.Syscall g:net.(*conn).Read g:bufio.(*Reader).fill g:io.ReadAll g:main.(*proxy).pump@/src/proxy.go g:main.main"},
		{"Go, net/http's own", "net.(*conn).Close", "g:syscall.close g:internal/poll.(*FD).Close g:net.(*conn).Close g:net/http.(*conn).close g:net/http.(*conn).serve g:runtime.goexit"},
		{"Go, module without a dot", "shop/cart.(*store).load", "g:syscall.read g:crypto/tls.(*Conn).Read g:shop/cart.(*store).load@/home/me/src/shop/cart/store.go g:main.main"},
		{"Go, module with a dot, trimmed paths", "example.com/shop/cart.Load", "g:net.(*conn).Read@net/net.go g:github.com/jackc/pgx/v5.(*Conn).Query@github.com/jackc/pgx/v5@v5.5.0/conn.go g:example.com/shop/cart.Load@example.com/shop/cart/load.go g:main.main@example.com/shop/main.go"},
		{"Go, library", "main.query", "g:net.(*conn).Read g:gopkg.in/yaml%2ev3.Unmarshal" + mod + "gopkg.in/yaml.v3@v3.0.1/yaml.go g:main.query@/src/main.go"},
		{"Go, only a library's goroutine", "github.com/redis/go-redis/v9.(*conn).read", "g:net.(*conn).Read g:github.com/redis/go-redis/v9.(*conn).read" + mod + "github.com/redis/go-redis/v9@v9.0.0/conn.go g:runtime.goexit"},
		{"Go, vendored", "main.run", "g:net.(*conn).Read g:github.com/a/b.(*T).Read@/src/app/vendor/github.com/a/b/t.go g:main.run@/src/app/main.go"},
		{"Go, std's vendored", "main.run", "g:vendor/golang.org/x/net/http/httpguts.f g:net/http.(*Client).Do g:main.run"},
		{"Go, generics", "main.(*pool[...]).get", "g:sync/atomic.(*Pointer[go.shape.struct~{~github.com/a/b.T~}]).Load g:slices.Sort[...] g:main.(*pool[...]).get@/src/pool.go g:main.main"},
		{"Go, no source file known", "main.run", "g:net.(*conn).Read g:example.com/x/y.Get g:main.run"},
		{"Go, wrapper of assembly", "main.main", "g:_rt0_amd64_linux g:type:.eq.main.key g:main.main"},
		{"Go, cgo", "c_inner", "n:connect" + libc + " n:c_inner^/srv/gocgo n:c_dial^/srv/gocgo n:_cgo_3f1_Cfunc_c_dial^/srv/gocgo g:runtime.asmcgocall g:runtime.cgocall g:main._Cfunc_c_dial@_cgo_gotypes.go g:main.dialViaC@/src/main.go g:main.worker g:runtime.goexit"},
		{"Go, cgo into a system library", "main.dialViaC", "n:connect" + libc + " n:PQconnectPoll^/usr/lib/x86_64-linux-gnu/libpq.so.5 n:_cgo_3f1_Cfunc_PQconnectdb^/srv/gocgo g:runtime.asmcgocall g:runtime.cgocall g:main._Cfunc_PQconnectdb g:main.dialViaC@/src/main.go"},

		{"Python, accept", "accept_one", "n:accept4" + libc + " n:" + python + " p:socket.accept@/usr/lib/python3.11/socket.py p:accept_one@/srv/pysrv.py p:serve@/srv/pysrv.py p:<module>@/srv/pysrv.py n:main" + python},
		{"Python, only the standard library", "SocketIO.readinto", "n:recv" + libc + " n:sock_recv_guts" + python + " p:SocketIO.readinto@/usr/lib/python3.11/socket.py p:BaseHTTPRequestHandler.handle_one_request@/usr/lib/python3.11/http/server.py p:Thread.run@/usr/lib/python3.11/threading.py"},
		{"Python, packages", "fetch", "p:SocketIO.readinto@/opt/venv/lib64/python3.12/socket.py p:HTTPConnection.getresponse@/opt/venv/lib/python3.12/site-packages/urllib3/connection.py p:fetch@/app/fetch.py p:<module>@/app/main.py"},
		{"Python, Debian's packages", "get", "p:get@/usr/lib/python3/dist-packages/requests/api.py p:_run@/usr/lib/python3.11/runpy.py"},
		{"Python, imported", "<module>", "p:SocketIO.readinto@/usr/lib/python3.11/socket.py p:<module>@/app/main.py p:_call_with_frames_removed@<frozen~importlib._bootstrap> p:<module>@<string>"},
		{"Python, standard library in one file", "work", "p:recv@/opt/py/python311.zip/socket.py p:work@/app/work.py"},
		{"Python, generated code", "work", "p:__init__@<attrs~generated~init~conn> p:work@/app/work.py"},
		{"Python, extension module", "read_ext", "n:recv" + libc + " n:pqsecure_read^/usr/lib/x86_64-linux-gnu/libpq.so.5 n:read_ext^/opt/venv/lib/python3.11/site-packages/psycopg2/_psycopg.so n:" + python + " p:_run@/usr/lib/python3.11/runpy.py"},
		{"Python without Python frames", "sock_recv_guts", "n:recv" + libc + " n:sock_recv_guts" + python + " n:_PyEval_EvalFrameDefault" + python},

		{"Java, EOF", "JSrv.readReq", "n:read" + libc + " n:Java_sun_nio_ch_SocketDispatcher_read0^/usr/lib/jvm/java-17-openjdk-amd64/lib/libnio.so j:sun.nio.ch.SocketDispatcher.read0 j:sun.nio.ch.NioSocketImpl.implRead j:java.io.InputStream.read j:JSrv.readReq j:JSrv.handle j:JSrv.main j:StubRoutines~(1) n:JavaCalls::call_helper" + jvm + " n:start_thread" + libc},
		{"Java, framework", "com.acme.shop.Cart.load", "j:sun.nio.ch.SocketDispatcher.read0 j:org.postgresql.core.PGStream.receive j:com.zaxxer.hikari.pool.PoolBase.isDead j:com.acme.shop.Cart.load j:org.springframework.web.Servlet.doGet j:java.lang.Thread.run"},
		{"Java, only a framework", "io.netty.channel.socket.nio.NioSocketChannel.doReadBytes", "j:sun.nio.ch.IOUtil.read j:io.netty.channel.socket.nio.NioSocketChannel.doReadBytes j:java.lang.Thread.run"},
		{"Java, JNI library", "com.acme.Native.read0", "n:recv" + libc + " n:Java_com_acme_Native_read0^/opt/acme/libacme.so j:com.acme.Native.read0 j:com.acme.Main.main"},
		{"Java, JDK not from the distribution", "java.net.Socket.close", "n:close" + libc + " n:NET_SocketClose^/opt/jdk-25/lib/libnet.so j:sun.nio.ch.NioSocketImpl.close j:java.net.Socket.close j:java.lang.Thread.run"},

		{"Node, close", "dropAll", "n:close" + libc + " n:uv__close" + node + " n:node::TCPWrap::Close" + node + " jit: s:closeSocketHandle@node:net s:Socket._destroy@node:net s:dropAll@/app/server.js s:onEnd@/app/server.js n:uv_run" + node + " n:node::Start" + node},
		{"Node, package", "onReq", "s:Socket.connect@node:net s:Pool.acquire@/app/node_modules/pg-pool/index.js s:onReq@file:///app/server.mjs"},
		{"Node, only its own", "internalConnect", "n:connect" + libc + " n:node::TCPWrap::Connect" + node + " s:internalConnect@node:net s:lookup@node:dns"},
		{"Node 10 names", "serve", "s:connect@internal/net.js s:serve@/app/a.js"},

		{"Rust, accept", "rsrv::accept_loop", "n:accept4" + libc + " n:<std::net::tcp::TcpListener>::accept^/srv/rsrv n:rsrv::accept_loop^/srv/rsrv n:rsrv::main^/srv/rsrv n:core::ops::function::FnOnce::call_once^/srv/rsrv n:std::rt::lang_start::{{closure}}^/srv/rsrv n:main^/srv/rsrv"},
		{"Rust, EOF", "<rsrv::Pool>::handle_conn", "n:recv" + libc + " n:<&std::net::tcp::TcpStream~as~std::io::Read>::read^/srv/rsrv n:<rsrv::Pool>::handle_conn^/srv/rsrv"},
		{"Rust, own impl of a foreign trait", "<rsrv::Conn as core::ops::drop::Drop>::drop", "n:close" + libc + " n:core::ptr::drop_in_place::<rsrv::Conn>^/srv/rsrv n:<rsrv::Conn~as~core::ops::drop::Drop>::drop^/srv/rsrv n:rsrv::main^/srv/rsrv"},
		{"Rust, type parameter", "rsrv::f", "n:<T~as~core::convert::Into<U>>::into^/srv/rsrv n:<alloc::boxed::Box<F,A>~as~core::ops::function::FnOnce<Args>>::call_once^/srv/rsrv n:rsrv::f^/srv/rsrv"},
		{"Rust, tokio", "app::proxy::{closure#0}", "n:recv" + libc + " n:<tokio::net::tcp::stream::TcpStream~as~tokio::io::AsyncRead>::poll_read^/srv/app n:mio::net::tcp::read^/srv/app n:app::proxy::{closure#0}^/srv/app n:tokio::runtime::task::raw::poll^/srv/app"},
		{"Rust, by file", "app::f", "n:pump@/home/dev/.cargo/registry/src/index.crates.io/bb8-0.8/src/lib.rs^/srv/app n:read@/rustc/abc/library/std/src/io.rs^/srv/app n:app::f@/src/app/main.rs^/srv/app"},
		{"C++", "srv::Session::onRead(int)", "n:recv" + libc + " n:boost::asio::detail::socket_ops::recv(int)^/srv/cpp n:void~std::__invoke_impl<void,~srv::Session>(std::__invoke_memfun_deref)^/srv/cpp n:srv::Session::onRead(int)^/srv/cpp n:main^/srv/cpp"},
		{"C++, anonymous namespace", "(anonymous namespace)::pump(std::string const&)", "n:recv" + libc + " n:std::thread::_State_impl<int>::_M_run()^/srv/cpp n:(anonymous~namespace)::pump(std::string~const&)^/srv/cpp"},
		{"C++, template that returns a std type", "std::string srv::fetch<int>(int)", "n:recv" + libc + " n:std::string~srv::fetch<int>(int)^/srv/cpp n:main^/srv/cpp"},

		{"perf map, .NET", "void [App] App.Program::Main()[Tier0]", "n:recv" + libc + " n:SystemNative_Read^/usr/lib/dotnet/libSystem.Native.so jit:void~[App]~App.Program::Main()[Tier0] n:main^/usr/bin/dotnet"},
		{"perf map, LuaJIT", "handler", "n:recv" + libc + " jit:handler n:main^/usr/bin/luajit"},
		{"perf map, Java", "com.acme.Cart.load", "n:read" + libc + " jit:java.net.Socket.read jit:com.acme.Cart.load jit:Interpreter n:JavaCalls::call_helper" + jvm},
		{"perf map, Node", "pump", "n:close" + libc + " jit:Builtin:CallFunction_ReceiverIsAny s:Socket._destroy@node:net s:pump@/app/a.js n:uv_run" + node},
		{"perf map, Python", "py::pump", "n:recv" + libc + " n:_PyEval_EvalFrameDefault" + python + " p:py::recv@/usr/lib/python3.12/socket.py p:py::pump@/srv/a.py"},
		{"Java, stubs only", "NET_Read", "n:read" + libc + " n:NET_Read^/usr/lib/jvm/java-17-openjdk-amd64/lib/libnet.so n:[stub~Interpreter] n:start_thread" + libc},
		{"code without any name", "main", "jit: jit: n:main^/srv/app"},
		{"nothing but libc", "recv", "n:recv" + libc + " n:start_thread" + libc},
	} {
		t.Run(tt.name, func(t *testing.T) {
			frames := stackOf(t, tt.stack)
			i := UserFrame(frames)
			if i < 0 {
				t.Fatal("no frame")
			}
			want, module, _ := strings.Cut(tt.want, "^")
			if f := frames[i]; f.Function != want || module != "" && f.Module != module {
				t.Errorf("frame %d %+v, want %s", i, f, tt.want)
			}
			if at := firstSuch(frames, frames[i]); at != i {
				t.Errorf("frame %d, but %d is the same and further in", i, at)
			}
		})
	}
	if i := UserFrame(nil); i != -1 {
		t.Errorf("no frames: got %d", i)
	}
}

func firstSuch(frames []Frame, f Frame) int {
	for i := range frames {
		if frames[i] == f {
			return i
		}
	}
	return -1
}

// Whatever foreign files say, a frame that is there is picked.
func FuzzUserFrame(f *testing.F) {
	f.Add("<", "(", "[", uint8(0))
	f.Add("<<&mut dyn as >::", "<frozen ", ".zip/", uint8(3))
	f.Add("a/b[c/d].e", "@v", "-2..so", uint8(1))
	f.Fuzz(func(t *testing.T, function, file, module string, kind uint8) {
		kinds := []Kind{Native, Go, Python, Java, JS, JIT, Signal, ""}
		frames := []Frame{
			{Function: function, File: file, Module: module, Kind: kinds[int(kind)%len(kinds)]},
			{Function: file, File: module, Module: function, Kind: kinds[int(kind/8)%len(kinds)]},
		}
		if i := UserFrame(frames); i != 0 && i != 1 {
			t.Errorf("frame %d of 2", i)
		}
	})
}

func BenchmarkUserFrame(b *testing.B) {
	frames := make([]Frame, 40)
	for i := range frames {
		frames[i] = Frame{Kind: Native, Function: "std::thread::_State_impl<std::thread::_Invoker<int>>::_M_run()", Module: "/srv/app"}
	}
	b.ReportAllocs()
	for b.Loop() {
		UserFrame(frames)
	}
}
