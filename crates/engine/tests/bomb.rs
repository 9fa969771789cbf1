//! What 510 KiB that inflate to 512 MiB do to the process. A test of its own: it looks at the process's memory.
#![allow(clippy::print_stdout)]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;

use common::{App, PATIENCE};
use flate2::{Compress, Compression, FlushCompress};
use lifeline_engine::config::DeflateConfig;

const MIB: usize = 1 << 20;

/// 512 MiB of zeros in 510 KiB.
fn bomb() -> Vec<u8> {
    let mut deflater = Compress::new(Compression::new(9), false);
    let mut wire = Vec::with_capacity(MIB);
    let zeros = vec![0; MIB];
    for _ in 0..512 {
        deflater.compress_vec(&zeros, &mut wire, FlushCompress::None).expect("compressed");
    }
    deflater.compress_vec(&[], &mut wire, FlushCompress::Sync).expect("flushed");
    wire.truncate(wire.len() - 4);
    wire
}

/// The most that the process has had, in bytes.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
}

#[test]
fn output_is_bounded_while_inflating() {
    const CONNECTIONS: usize = 8;
    let bomb = bomb();
    assert!((500 * 1024..530 * 1024).contains(&bomb.len()), "{}", bomb.len());
    let mut app = App::with_threads(2);
    for (takeover, binary) in [(false, true), (true, true), (true, false)] {
        let (_, address) = app.serve(|config| {
            config.compression = Some(DeflateConfig { context_takeover: takeover, ..DeflateConfig::default() });
        });
        let before = peak();
        for _ in 0..CONNECTIONS {
            let mut stream = TcpStream::connect(&address).expect("connect");
            stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
            let mut bytes = format!(
                "GET / HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                 Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
            )
            .into_bytes();
            bytes.extend([if binary { 0xC2 } else { 0xC1 }, 0xFF]);
            bytes.extend((bomb.len() as u64).to_be_bytes());
            bytes.extend([0; 4]);
            bytes.extend(&bomb);
            // It may be cut off on its way.
            let _ = stream.write_all(&bytes);
            let (code, reason, _) = app.wait_close();
            assert_eq!((code, &reason[..]), (1009, "message too big"));
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            assert!(answer.starts_with(b"HTTP/1.1 101 "));
        }
        let more = peak() - before;
        println!("{CONNECTIONS} bombs of 512 MiB, takeover {takeover}: peak {} KiB more", more / 1024);
        // limits.maxMessage is 1 MiB; the rest is threads and what the allocator keeps. Unbounded it is 512 MiB and more.
        assert!(more < 32 * MIB, "{more}");
    }
}
