//! An echo server for one connection at a time: rsrv ADDR.
use std::io::{Read, Result, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};

static READS: AtomicUsize = AtomicUsize::new(0);

struct Pool {
    served: usize,
}

impl Pool {
    #[inline(never)]
    fn handle_conn(&mut self, mut conn: TcpStream) {
        let mut buf = [0u8; 512];
        while let Ok(1..) = read_some(&mut conn, &mut buf) {
            if conn.write_all(b"ok\n").is_err() {
                break;
            }
        }
        self.served += 1;
    }
}

#[inline(never)]
fn read_some<R: Read>(conn: &mut R, buf: &mut [u8]) -> Result<usize> {
    let n = conn.read(buf);
    READS.fetch_add(1, Ordering::Relaxed); // not a tail call
    n
}

#[inline(never)]
fn accept_loop(listener: TcpListener, pool: &mut Pool) {
    for conn in listener.incoming().flatten() {
        pool.handle_conn(conn);
    }
}

fn main() {
    let addr = std::env::args().nth(1).expect("an address");
    let listener = TcpListener::bind(addr).expect("a free port");
    let mut pool = Pool { served: 0 };
    accept_loop(listener, &mut pool);
    println!("{}", pool.served);
}
