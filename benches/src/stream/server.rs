//! The far end of the bare stream, a process of its own so that its CPU time can be told apart.
//!
//! The process is this program again, under a hidden command. It ends when its standard input does,
//! so it never outlives whoever started it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;

use larder_transport::process;

use super::{Ask, HEADER_BYTES, MESSAGE_BYTES_MAX, header, odd};
use crate::cold::ColdMemory;

/// A server process. Dropping it ends the process.
#[derive(Debug)]
pub struct StreamServer {
    child: Child,
    address: SocketAddr,
    _stdin: ChildStdin,
}

impl StreamServer {
    /// Starts `program` with `command` and `cold_bytes`, and waits until it serves.
    ///
    /// # Errors
    /// If the program does not start, or does not say where it listens.
    pub fn start(program: &std::path::Path, command: &str, cold_bytes: u64) -> io::Result<Self> {
        let mut child = Command::new(program)
            .args([command, "--cold-bytes", &format!("{cold_bytes}B")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take().expect("its standard input is piped");
        let stdout = child.stdout.take().expect("its standard output is piped");
        let mut line = String::new();
        BufReader::new(stdout).take(LINE_BYTES_MAX).read_line(&mut line)?;
        let address = line.trim().strip_prefix(READY).and_then(|rest| rest.trim().parse().ok());
        let server = |address| Self { child, address, _stdin: stdin };
        address.map(server).ok_or_else(|| odd(&format!("{line:?} instead of its address")))
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for StreamServer {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end and nothing to say.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves streams on a free port of the loopback, says where on `ready`, and comes back when
/// `until` ends.
///
/// # Errors
/// If no port can be listened on, or nobody can be told.
pub fn serve(mut ready: impl Write, until: &mut impl Read, cold_bytes: u64) -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    writeln!(ready, "{READY} {}", listener.local_addr()?)?;
    ready.flush()?;
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            thread::spawn(move || match answer_all(socket, cold_bytes) {
                Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
                    eprintln!("the bare stream ended: {error}");
                }
                _ => {}
            });
        }
    });
    io::copy(until, &mut io::sink())?;
    Ok(())
}

fn answer_all(mut socket: TcpStream, cold_bytes: u64) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut memory = ColdMemory::new(cold_bytes, MESSAGE_BYTES_MAX + HEADER_BYTES as u64);
    let mut asked = [0; HEADER_BYTES];
    loop {
        socket.read_exact(&mut asked)?;
        match Ask::decode(&asked)? {
            // Header and bytes lie one behind the other, so that one call sends both.
            Ask::Get(bytes) => socket.write_all(memory.next(bytes + HEADER_BYTES as u64))?,
            Ask::Put(bytes) => {
                socket.read_exact(memory.next(bytes))?;
                socket.write_all(&header([0, 0]))?;
            }
            Ask::Cpu => socket.write_all(&header([0, process::cpu_time_us(None)?]))?,
        }
    }
}

const READY: &str = "ready";
const LINE_BYTES_MAX: u64 = 256;
