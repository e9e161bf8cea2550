use std::io::Read;
use std::net::{TcpListener, TcpStream};

struct Pool {
    kept: Vec<TcpStream>,
}

impl Pool {
    #[inline(never)]
    fn handle_conn(&mut self, mut s: TcpStream) {
        let mut b = [0u8; 512];
        while let Ok(n) = read_some(&mut s, &mut b) {
            if n == 0 {
                break;
            }
        }
        self.kept.push(s);
    }
}

#[inline(never)]
fn read_some<R: Read>(s: &mut R, b: &mut [u8]) -> std::io::Result<usize> {
    let r = s.read(b);
    std::hint::black_box(&r);
    r
}

#[inline(never)]
fn accept_loop(l: TcpListener, p: &mut Pool) {
    for s in l.incoming().flatten() {
        p.handle_conn(s);
    }
}

fn main() {
    let l = TcpListener::bind(std::env::args().nth(1).unwrap()).unwrap();
    let mut p = Pool { kept: vec![] };
    accept_loop(l, &mut p);
    println!("{}", p.kept.len());
}
