//! A collector of traces that accepts everything, so that a bench can run with the exporter on:
//! `BENCH_TRACES=on`, at the default sampling.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::OnceLock;

use super::Outcome;

/// The endpoint for the servers of this bench, if `BENCH_TRACES` is `on`.
pub fn endpoint() -> Outcome<Option<String>> {
    static ENDPOINT: OnceLock<String> = OnceLock::new();
    if std::env::var("BENCH_TRACES").as_deref() != Ok("on") {
        return Ok(None);
    }
    if let Some(endpoint) = ENDPOINT.get() {
        return Ok(Some(endpoint.clone()));
    }
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
    Ok(Some(ENDPOINT.get_or_init(|| endpoint).clone()))
}

/// Reads requests and answers them, until the client leaves.
fn serve(stream: TcpStream) -> std::io::Result<()> {
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut length = 0;
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let (name, value) = line.split_once(':').unwrap_or_default();
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        std::io::copy(&mut (&mut reader).take(length), &mut std::io::sink())?;
        writer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
    }
}
